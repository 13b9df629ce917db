/** The client: calls, deadlines, and a connection that is made again when it is lost. */

import { parseAddress, type Address } from "./address.js";
import { Backlog, Call, type Kind, type Outcome } from "./call.js";
import { decodeOutputs, decodeValues, encodeRequest, type Inputs, type Request } from "./codec.js";
import { Connection, type Owner } from "./connection.js";
import type { Event } from "./conversation.js";
import { realEnvironment, type Environment } from "./environment.js";
import { clientClosed, InferdError, superseded } from "./errors.js";
import { Type } from "./frame.js";
import type { ValueMap } from "./msgpack.js";
import {
  checkClientOptions,
  checkedConnectTimeout,
  checkedText,
  checkedTimeout,
  checkInferOptions,
  MAX_NAME,
  MAX_TOKEN,
  type ClientOptions,
  type InferOptions,
  type ModelInfo,
  type Result,
  type Timing,
} from "./options.js";
import { checkByteOrder } from "./tensor.js";
import { VERSION } from "./version.js";

/** "connecting" from the start and whenever the connection was lost, "open" after WELCOME, "closed" for good. */
export type State = "connecting" | "open" | "closed";

const CONNECT_TIMEOUT_MS = 5_000;
const TIMEOUT_MS = 30_000;
// Before an attempt to connect again: any time up to this, doubled each time, so that many clients of a server that
// comes back do not all come at once.
const MIN_BACKOFF_MS = 50;
const MAX_BACKOFF_MS = 2_000;
// What is obeyed of a server's retryAfterMs at most. A longer time is a mistake, or keeps the client away for good, and
// one attempt a minute burdens no server.
const MAX_RETRY_AFTER_MS = 60_000;
// A connection that lived this long was a good one: the next attempt begins with a short wait again.
const GOOD_CONNECTION_MS = 2_000;

/**
 * A connection to an inferd server, for any number of calls at once. It connects when it is made, and again by itself:
 * calls that were not sent wait for that, those in flight on a lost connection fail as Unavailable.
 *
 * `url` is `ws://host:port/ws` or `wss://…`, and in Node also `inferd://host[:port]` or `inferd+unix:///path`.
 * Throws ConfigError for a URL that cannot be used, and InvalidArgument for an option.
 */
export class Client {
  /** Called with the new state, whenever it changes. */
  onState: ((state: State) => void) | undefined;
  readonly #address: Address;
  readonly #name: string;
  readonly #token: string | undefined;
  readonly #connectTimeoutMs: number;
  readonly #timeoutMs: number;
  readonly #reconnect: boolean;
  readonly #environment: Environment;
  readonly #backlog = new Backlog();
  readonly #sentOn = new Map<Call, Connection>();
  readonly #leaving = new Set<Connection>(); // draining, with answers still to come
  readonly #owner: Owner = {
    onEvent: (connection, event) => this.#onEvent(connection, event),
    onRoom: () => this.#pump(),
  };
  #state: State = "connecting";
  #connection: Connection | undefined;
  #failure: InferdError | undefined; // why the last attempt to connect failed
  #attempts = 0; // to connect, since the last good connection
  #openedAt = 0;
  #backoff: unknown;

  /** `environment` is for tests. */
  constructor(url: string, options: ClientOptions = {}, environment = realEnvironment(options.WebSocket)) {
    checkByteOrder();
    checkClientOptions(options);
    this.#address = parseAddress(url);
    this.#name = checkedText("name", options.name ?? `inferd-js/${VERSION}`, MAX_NAME);
    this.#token = options.token === undefined ? undefined : checkedText("token", options.token, MAX_TOKEN);
    this.#connectTimeoutMs = checkedConnectTimeout(options.connectTimeoutMs ?? CONNECT_TIMEOUT_MS);
    this.#timeoutMs = checkedTimeout("timeoutMs", options.timeoutMs ?? TIMEOUT_MS);
    this.#reconnect = options.reconnect ?? true;
    this.#environment = environment;
    this.#connect();
  }

  get state(): State {
    return this.#state;
  }

  /**
   * Runs `model` on one item, or with `rows` on as many as every input leads with. A typed array is a tensor of one
   * dimension, a Tensor one of any shape; text, numbers, booleans, lists and maps are values. Memory that is passed is
   * sent from where it lies, so it must not change before the promise settles.
   *
   * With `supersede` a newer call with the same key takes this one's place while it waits, here or at the server; this
   * one is rejected as Superseded. Rejects with an InferdError, or with the signal's reason.
   */
  async infer(model: string, inputs: Inputs, options: InferOptions = {}): Promise<Result> {
    checkInferOptions(options);
    const start = this.#environment.now();
    const request = encodeRequest(model, inputs, options);
    const outcome = await this.#call(Type.INFER, options.timeoutMs, options.signal, request);
    const { result, hasValues, payload } = outcome.frame;
    return {
      outputs: decodeOutputs(result!, hasValues, payload), // an INFER is answered by nothing but a RESULT
      timing: result!.timing && camelCased(result!.timing),
      roundTripMs: outcome.at - start,
    };
  }

  /** The models served, as the server described them when it was connected to. Waits for a connection. */
  async models(): Promise<ModelInfo[]> {
    const outcome = await this.#call("models", undefined, undefined);
    return structuredClone(outcome.models) as ModelInfo[];
  }

  /** What the server says about itself now, for people and dashboards: models, queues, workers. */
  async status(): Promise<ValueMap> {
    const { frame } = await this.#call(Type.STATUS, undefined, undefined);
    return frame.hasValues ? decodeValues(frame.payload) : {};
  }

  /** Ends the connection for good. Calls that are waiting are rejected as Cancelled. */
  close(): void {
    this.#end(clientClosed);
  }

  // ---- calls

  #call(
    kind: "models",
    timeoutMs: number | undefined,
    signal: AbortSignal | undefined,
  ): Promise<{ models: readonly ValueMap[] }>;
  #call(
    kind: typeof Type.INFER | typeof Type.STATUS,
    timeoutMs: number | undefined,
    signal: AbortSignal | undefined,
    request?: Request,
  ): Promise<Extract<Outcome, { frame: unknown }> & { at: number }>;
  #call(
    kind: Kind,
    timeoutMs: number | undefined,
    signal: AbortSignal | undefined,
    request?: Request,
  ): Promise<unknown> {
    const budgetMs = timeoutMs === undefined ? this.#timeoutMs : checkedTimeout("timeoutMs", timeoutMs);
    signal?.throwIfAborted();
    if (this.#state === "closed") return Promise.reject(this.#failure ?? clientClosed());
    const { now, setTimer, clearTimer } = this.#environment;
    return new Promise((resolve, reject) => {
      let timer: unknown;
      const onAbort = () => this.#giveUp(call, signal!.reason);
      const onTime = () => {
        const leftMs = call.deadline - now();
        if (leftMs > 0) timer = setTimer(onTime, leftMs);
        else this.#giveUp(call, call.timeUp(this.#failure));
      };
      const call = new Call(
        kind,
        now() + budgetMs,
        budgetMs,
        (outcome) => {
          clearTimer(timer);
          signal?.removeEventListener("abort", onAbort);
          if ("error" in outcome) reject(outcome.error);
          else resolve({ ...outcome, at: now() });
        },
        request,
      );
      signal?.addEventListener("abort", onAbort);
      onTime();
      if (call.settled) return;
      this.#queue(call);
    });
  }

  #queue(call: Call): void {
    this.#backlog.add(call)?.settle({ error: superseded() });
    this.#pump();
  }

  /** The next connection shall answer a call that was sent. */
  #again(call: Call): void {
    this.#sentOn.delete(call);
    // In onState, a moment ago, the client may have been closed, or the call aborted.
    if (this.#state === "closed") call.settle({ error: this.#failure });
    // Sent now it would take the place of a newer one that waits at the server.
    if ([...this.#sentOn.keys()].some((other) => other.replaces(call))) call.settle({ error: superseded() });
    if (call.settled) return;
    call.id = 0n;
    this.#queue(call);
  }

  /** Ends a call that nobody waits for any more; the server is told, if it knows of it. */
  #giveUp(call: Call, error: unknown): void {
    const connection = this.#backlog.remove(call) ? this.#connection : this.#sentOn.get(call);
    connection?.abandon(call);
    this.#settle(call, { error });
  }

  #settle(call: Call, outcome: Outcome): void {
    this.#sentOn.delete(call);
    call.settle(outcome);
  }

  /** Sends what waits, while the connection and its credits allow. */
  #pump(): void {
    const connection = this.#connection;
    while (this.#backlog.size > 0 && connection?.writable) {
      const call = this.#backlog.take(connection.conversation.hasCredit);
      if (call === undefined) return;
      if (call.kind === "models") {
        call.settle({ models: connection.conversation.models });
        continue;
      }
      if (call.deadline <= this.#environment.now()) {
        call.settle({ error: call.timeUp() });
        continue;
      }
      try {
        connection.send(call);
        this.#sentOn.set(call, connection);
      } catch (error) {
        call.settle({ error });
      }
    }
  }

  // ---- the connection

  #connect(): void {
    this.#backoff = undefined;
    this.#connection = new Connection(
      {
        address: this.#address,
        name: this.#name,
        token: this.#token,
        connectTimeoutMs: this.#connectTimeoutMs,
        environment: this.#environment,
      },
      this.#owner,
    );
  }

  #onEvent(connection: Connection, event: Event): void {
    switch (event.type) {
      case "answered":
        return this.#settle(event.call, { frame: event.frame });
      case "failed":
        return this.#settle(event.call, { error: event.error });
      case "moved":
        return this.#again(event.call);
      case "greeted":
        this.#failure = undefined;
        this.#openedAt = this.#environment.now();
        return this.#become("open");
      case "going":
        this.#leaving.add(connection);
        return this.#replace(undefined);
      case "ended":
        if (!this.#leaving.delete(connection) && connection === this.#connection) this.#replace(event.error);
    }
  }

  /** The connection takes no more calls: because of `error`, or because the server is leaving. */
  #replace(error: InferdError | undefined): void {
    const greeted = this.#connection?.conversation.greeted ?? false;
    this.#connection = undefined;
    // An error that is not for now but for ever (a wrong token, another protocol) is the same the next time.
    const hopeless = error !== undefined && !greeted && !error.retryable;
    if (hopeless || (!this.#reconnect && error !== undefined)) return this.#end(() => error);
    if (!greeted) this.#failure = error;
    if (greeted && this.#environment.now() - this.#openedAt >= GOOD_CONNECTION_MS) this.#attempts = 0;
    const longestMs = Math.min(MIN_BACKOFF_MS * 2 ** Math.min(this.#attempts++, 10), MAX_BACKOFF_MS);
    const askedMs = Math.min(error?.retryAfterMs ?? 0, MAX_RETRY_AFTER_MS);
    const pauseMs = askedMs + this.#environment.random() * longestMs;
    this.#backoff = this.#environment.setTimer(() => this.#connect(), pauseMs);
    this.#become("connecting");
  }

  #end(error: () => InferdError): void {
    if (this.#state === "closed") return;
    this.#environment.clearTimer(this.#backoff);
    const connections = [...this.#leaving, ...(this.#connection ? [this.#connection] : [])];
    this.#connection = undefined;
    this.#leaving.clear();
    this.#failure = error();
    for (const connection of connections) connection.close(error);
    for (const call of this.#backlog.clear()) call.settle({ error: error() });
    this.#become("closed");
  }

  #become(state: State): void {
    if (this.#state === state) return;
    this.#state = state;
    try {
      this.onState?.(state);
    } catch (error) {
      // It is the page's mistake, to be reported as such; what else has just been received must be seen to.
      queueMicrotask(() => {
        throw error;
      });
    }
  }
}

/** The timeline with its fields named as is usual here: `queued_ms` is `queuedMs`. */
function camelCased(timing: ValueMap): Timing {
  return Object.fromEntries(
    Object.entries(timing).map(([name, value]) => [
      name.replace(/_([a-z])/g, (_, letter: string) => letter.toUpperCase()),
      value,
    ]),
  );
}
