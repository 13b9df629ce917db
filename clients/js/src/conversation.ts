/**
 * The client's half of a conversation, without the socket: bytes in, events out; calls in, bytes out; `now` is an
 * argument. It knows one connection's ids and credits, the calls that were sent on it, and what the server said.
 *
 * An INFER counts against the credits until the server has answered it, also when nobody waits for it any more: only
 * the server knows when it is rid of it.
 */

import type { Call } from "./call.js";
import { decodeValues, headerOf, notATensor } from "./codec.js";
import { Decoder, type Frame } from "./decoder.js";
import { connectFailed, connectionLost, InferdError, InvalidArgument, ProtocolError } from "./errors.js";
import { HAS_VALUES, packHead, Type, typeName } from "./frame.js";
import { packHello } from "./messages.js";
import type { ValueMap } from "./msgpack.js";

// So long a connection may be silent while requests are on their way, until a call that times out takes it for dead.
export const SILENCE_MS = 20_000;

const EMPTY = new Uint8Array(0);

/** What happened. A call that was answered, has failed or is moved is no longer known here. */
export type Event =
  | { type: "greeted" }
  | { type: "answered"; call: Call; frame: Frame }
  | { type: "failed"; call: Call; error: InferdError }
  /** The server is leaving and did not take a call that was sent, or has given it up: it may be sent elsewhere. */
  | { type: "moved"; call: Call }
  /** Nothing more may be sent: the server is leaving, or silent. What was sent may still be answered. */
  | { type: "going" }
  /** Nothing comes any more; every call that was sent has failed, or is moved. */
  | { type: "ended"; error: InferdError };

export class Conversation {
  /** What is to be written, in order. */
  readonly outbox: Uint8Array[] = [];
  /** The models served, as WELCOME described them. */
  models: readonly ValueMap[] = [];
  greeted = false;
  draining = false;
  silent = false; // a call has timed out, and nothing was heard for long: who knows whether anybody is there
  closed = false;
  readonly #address: string;
  readonly #decoder = new Decoder((frame) => this.#wants(frame));
  readonly #pending = new Map<bigint, Call>();
  readonly #abandoned = new Set<bigint>(); // INFERs that are unanswered and for which nobody waits
  #lastId = 0n;
  #credits = 1;
  #unanswered = 0; // INFERs
  #payloadLimit = 0; // of what the server takes
  #silentSince = Infinity; // when the first call was sent after which nothing has been received
  #events: Event[] = [];

  /** `address` is for error messages. HELLO, with the client's name and token, is in the outbox. */
  constructor(address: string, name: string, token: string | undefined) {
    this.#address = address;
    this.#payloadLimit = this.#decoder.payloadLimit;
    this.outbox.push(packHead(Type.HELLO, 0n, packHello(name, token)));
  }

  /** Whether calls may be sent. */
  get usable(): boolean {
    return this.greeted && !this.draining && !this.silent && !this.closed;
  }

  get hasCredit(): boolean {
    return this.#unanswered < this.#credits;
  }

  /** Whether nobody waits for an answer. */
  get idle(): boolean {
    return this.#pending.size === 0;
  }

  /**
   * Puts a call of type INFER or STATUS into the outbox. An INFER needs a credit.
   * Throws InvalidArgument if its payload is over the server's limit; nothing is sent then.
   */
  send(call: Call, now: number): void {
    const { request } = call;
    if (request !== undefined && request.payloadBytes > this.#payloadLimit) {
      const limit = `this server's limit of ${this.#payloadLimit} bytes`;
      throw new InvalidArgument(`the payload of ${request.payloadBytes} bytes is over ${limit}; send fewer rows`, {
        reason: "PAYLOAD_TOO_LARGE",
      });
    }
    call.id = ++this.#lastId;
    this.#pending.set(call.id, call);
    this.#silentSince = Math.min(this.#silentSince, now);
    if (request === undefined) {
      this.outbox.push(packHead(Type.STATUS, call.id, EMPTY));
      return;
    }
    this.#unanswered++;
    // Rounded up, so that one timeout mostly gives one header: the server remembers those.
    const header = headerOf(request, Math.max(Math.ceil(call.deadline - now), 0));
    const flags = Object.keys(request.values).length > 0 ? HAS_VALUES : 0;
    this.outbox.push(packHead(Type.INFER, call.id, header, request.payloadBytes, flags), ...request.pieces);
  }

  /**
   * The caller stopped waiting, for the answer to a call that was sent or to send one. An INFER that was sent is
   * cancelled, and a late answer forgotten.
   *
   * If its time was up after a long silence, nothing may be at the other end any more: a frozen machine, a proxy that
   * has lost the server. No more calls may be sent here then, so that the next makes a connection that works. The
   * others stay, because it may just as well be a slow model.
   */
  abandon(call: Call, now: number): Event[] {
    if (this.#pending.delete(call.id) && call.request !== undefined) {
      this.#abandoned.add(call.id);
      this.outbox.push(packHead(Type.CANCEL, call.id, EMPTY));
    }
    if (now >= call.deadline && call.deadline - this.#silentSince >= SILENCE_MS) {
      this.#going();
      this.silent = true;
    }
    return this.#take();
  }

  /** Bytes have come; they belong to the conversation from here on. */
  received(bytes: Uint8Array): Event[] {
    this.#silentSince = Infinity;
    try {
      this.#decoder.feed(bytes);
      for (let frame = this.#decoder.next(); frame !== undefined; frame = this.#decoder.next()) this.#onFrame(frame);
    } catch (error) {
      if (!(error instanceof ProtocolError)) throw error;
      this.#end(() => new ProtocolError(`${this.#address}: ${error.message}`));
    }
    return this.#take();
  }

  /** The connection has ended; `problem` says why, where that is known. */
  lost(problem: string): Event[] {
    if (this.draining) {
      // What crossed GOAWAY on the way was never read, and what the server gave up is as good as that.
      for (const call of this.#pending.values()) this.#events.push({ type: "moved", call });
      this.#pending.clear();
    }
    return this.fail(() =>
      this.greeted
        ? connectionLost(this.#address, problem)
        : connectFailed(this.#address, problem || "the connection was closed before WELCOME"),
    );
  }

  /** Ends the conversation: every call that was sent fails with an `error()` of its own. */
  fail(error: () => InferdError): Event[] {
    this.#end(error);
    return this.#take();
  }

  #take(): Event[] {
    return this.#events.splice(0);
  }

  #end(makeError: () => InferdError): void {
    if (this.closed) return;
    this.closed = true;
    this.#decoder.end();
    this.outbox.length = 0;
    const calls = [...this.#pending.values()];
    this.#pending.clear();
    for (const call of calls) this.#fail(call, makeError());
    this.#events.push({ type: "ended", error: makeError() });
  }

  /** Says once that nothing more may be sent. */
  #going(): void {
    if (this.usable) this.#events.push({ type: "going" });
  }

  #fail(call: Call, error: InferdError): void {
    error.requestId = Number(call.id);
    this.#events.push({ type: "failed", call, error });
  }

  #wants(frame: Frame): boolean {
    return (
      frame.type === Type.WELCOME ||
      ((frame.type === Type.RESULT || frame.type === Type.STATUS) && this.#pending.has(frame.requestId))
    );
  }

  #onFrame(frame: Frame): void {
    if (frame.credits > 0) this.#credits = frame.credits;
    switch (frame.type) {
      case Type.RESULT:
      case Type.STATUS:
      case Type.PONG:
        return this.#onAnswer(frame);
      case Type.ERROR:
        return this.#onError(frame);
      case Type.PING:
        this.outbox.push(packHead(Type.PONG, frame.requestId, EMPTY));
        return;
      case Type.GOAWAY:
        this.#going();
        this.draining = true;
        return;
      case Type.WELCOME:
        return this.#onWelcome(frame);
      // CREDIT has said what it says in its prefix, and a message of a later version is skipped.
    }
  }

  /** The call that `frame` answers, taken off the books; undefined if nobody waits for it. */
  #answered(frame: Frame): Call | undefined {
    const call = this.#pending.get(frame.requestId);
    this.#pending.delete(frame.requestId);
    if (call?.request !== undefined || this.#abandoned.delete(frame.requestId)) this.#unanswered--;
    return call;
  }

  #onAnswer(frame: Frame): void {
    const call = this.#answered(frame);
    if (call === undefined) return;
    const expected = call.request === undefined ? Type.STATUS : Type.RESULT;
    if (frame.error !== undefined) {
      this.#fail(call, new ProtocolError(`${this.#address}: ${frame.error.message}`));
    } else if (frame.type !== expected) {
      const asked = call.request === undefined ? "STATUS" : "INFER";
      this.#fail(call, new ProtocolError(`${this.#address} answered ${asked} with ${typeName(frame.type)}`));
    } else {
      this.#events.push({ type: "answered", call, frame });
    }
  }

  #onError(frame: Frame): void {
    const failure = (): InferdError => {
      if (frame.failure === undefined) {
        return new InferdError(`${this.#address} sent an error that cannot be read: ${frame.error?.message ?? ""}`);
      }
      const { failure: said } = frame;
      const kind = said.constructor as new (message: string, details: object) => InferdError;
      return new kind(said.message, {
        reason: said.reason,
        retryable: said.retryable,
        retryAfterMs: said.retryAfterMs,
      });
    };
    if (frame.requestId === 0n) return this.#end(failure);
    const call = this.#answered(frame);
    if (call === undefined) return;
    const error = failure();
    if (error.reason === "DRAINING") {
      this.#going();
      this.draining = true;
      this.#events.push({ type: "moved", call });
      return;
    }
    const better = error.reason === "INPUT_MISSING" && call.request ? notATensor(call.request, this.models) : undefined;
    this.#fail(call, better ?? error);
  }

  #onWelcome(frame: Frame): void {
    const { welcome } = frame;
    if (welcome === undefined) throw new ProtocolError(`WELCOME cannot be read: ${frame.error?.message ?? ""}`);
    this.#payloadLimit = welcome.limits["payload_bytes"] ?? this.#payloadLimit;
    this.#decoder.payloadLimit = Math.max(
      this.#decoder.payloadLimit,
      this.#payloadLimit,
      welcome.limits["result_bytes"] ?? 0,
    );
    const models = frame.hasValues ? (decodeValues(frame.payload)["models"] ?? []) : [];
    if (!Array.isArray(models) || !models.every(isMap)) throw new ProtocolError("WELCOME has no list of models");
    this.models = models;
    this.greeted = true;
    this.#events.push({ type: "greeted" });
  }
}

function isMap(value: unknown): value is ValueMap {
  return typeof value === "object" && value !== null && !Array.isArray(value) && !(value instanceof Uint8Array);
}
