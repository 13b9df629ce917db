/**
 * One thing a caller waits for, and the queue of those that have not been sent.
 *
 *     unsent ──credit──▶ sent ──answer, or the connection is lost──▶ settled
 *        │  ◀── DRAINING, or lost after GOAWAY ──┘                     ▲
 *        └── given up, or a newer call with the same key ──────────────┘
 *
 * What is unsent belongs to no connection: when one is lost or drains, it waits for the next.
 */

import type { Request } from "./codec.js";
import type { Frame } from "./decoder.js";
import { DeadlineExceeded, type InferdError } from "./errors.js";
import { Type } from "./frame.js";
import type { ValueMap } from "./msgpack.js";

/** What ends a call: what came for it, or why nothing did. For "models" it is what WELCOME said. */
export type Outcome = { frame: Frame } | { models: readonly ValueMap[] } | { error: unknown };

export type Kind = typeof Type.INFER | typeof Type.STATUS | "models";

let lastNumber = 0;

/** Times are in milliseconds of the client's clock. */
export class Call {
  /** Grows with every call: it says which of two is the newer. */
  readonly number = ++lastNumber;
  /** The connection's id for it; 0 until it is sent. */
  id = 0n;
  /** What a call of the kind needs: only an INFER has one. */
  readonly request: Request | undefined;
  #settle: ((outcome: Outcome) => void) | undefined;

  constructor(
    readonly kind: Kind,
    readonly deadline: number,
    readonly timeoutMs: number,
    settle: (outcome: Outcome) => void,
    request?: Request,
  ) {
    this.#settle = settle;
    this.request = request;
  }

  /** Whether it is newer than `other` and has the same supersede key. */
  replaces(other: Call): boolean {
    const key = this.request?.fields.supersede;
    return key !== undefined && key === other.request?.fields.supersede && this.number > other.number;
  }

  get settled(): boolean {
    return this.#settle === undefined;
  }

  /** Ends it; what comes after the first end is nobody's. */
  settle(outcome: Outcome): void {
    const settle = this.#settle;
    this.#settle = undefined;
    settle?.(outcome);
  }

  /** The error for a call that got no answer in time; `problem` is why there was no connection for it. */
  timeUp(problem?: InferdError): DeadlineExceeded {
    const cause = this.id === 0n ? problem : undefined;
    const waiting = cause === undefined ? "waiting to be sent" : `waiting for a connection (${cause.message})`;
    const stage = this.id === 0n ? waiting : "on its way";
    return new DeadlineExceeded(`no answer within ${this.timeoutMs} ms; the request was ${stage}`, {
      reason: "TIMEOUT",
      requestId: Number(this.id),
      cause,
    });
  }
}

/** The calls that are unsent, in their order; of those with one supersede key only the newest. */
export class Backlog {
  #calls: Call[] = [];

  get size(): number {
    return this.#calls.length;
  }

  /**
   * Takes a call in: before those that are newer, for it may have been sent in vain. Of two with the same key the newer
   * has the place, and the older is returned.
   */
  add(call: Call): Call | undefined {
    const key = call.request?.fields.supersede;
    const same = key === undefined ? -1 : this.#calls.findIndex((other) => other.request?.fields.supersede === key);
    if (same < 0) {
      let place = this.#calls.length;
      while (place > 0 && this.#calls[place - 1]!.number > call.number) place--;
      this.#calls.splice(place, 0, call);
      return undefined;
    }
    const other = this.#calls[same]!;
    if (other.number > call.number) return call;
    this.#calls[same] = call;
    return other;
  }

  /** The next call to send, taken out: the first, or without a credit the first that needs none. */
  take(hasCredit: boolean): Call | undefined {
    const place = hasCredit ? 0 : this.#calls.findIndex((call) => call.kind !== Type.INFER);
    return place < 0 ? undefined : this.#calls.splice(place, 1)[0];
  }

  /** Takes a call out; false if it is not here. */
  remove(call: Call): boolean {
    const place = this.#calls.indexOf(call);
    if (place >= 0) this.#calls.splice(place, 1);
    return place >= 0;
  }

  /** Takes all of them out. */
  clear(): Call[] {
    return this.#calls.splice(0);
  }
}
