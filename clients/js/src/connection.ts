/** A conversation on a transport. It dials, greets, moves bytes, and hands the events on. */

import type { Address } from "./address.js";
import type { Call } from "./call.js";
import { Conversation, type Event } from "./conversation.js";
import { connectFailed, InferdError } from "./errors.js";
import type { Environment } from "./environment.js";
import type { Transport } from "./transport.js";

export interface ConnectionOptions {
  address: Address;
  name: string;
  token: string | undefined;
  connectTimeoutMs: number;
  environment: Environment;
}

/** The connection's owner: told what happened, and when more can be sent. */
export interface Owner {
  onEvent(connection: Connection, event: Event): void;
  onRoom(connection: Connection): void;
}

export class Connection {
  readonly conversation: Conversation;
  readonly #options: ConnectionOptions;
  readonly #owner: Owner;
  readonly #dialing = new AbortController();
  readonly #timer: unknown;
  #transport: Transport | undefined;

  /** Dials at once. The owner hears "greeted" or "ended" within the time for connecting. */
  constructor(options: ConnectionOptions, owner: Owner) {
    const { address, connectTimeoutMs, environment } = options;
    this.#options = options;
    this.#owner = owner;
    this.conversation = new Conversation(address.url, options.name, options.token);
    this.#timer = environment.setTimer(() => {
      if (!this.conversation.greeted) this.#lost(`no WELCOME within ${connectTimeoutMs} ms`);
    }, connectTimeoutMs);
    void this.#dial();
  }

  /** Whether a call can be sent now, credits aside. */
  get writable(): boolean {
    return this.conversation.usable && this.#transport?.congested === false;
  }

  /** Sends a call. Throws InvalidArgument if it is over the server's limit. */
  send(call: Call): void {
    this.conversation.send(call, this.#options.environment.now());
    this.#flush();
  }

  /** Stops waiting for a call that was sent here, or was to be. */
  abandon(call: Call): void {
    this.#hand(this.conversation.abandon(call, this.#options.environment.now()));
  }

  /** Ends the connection; what was sent fails with an `error()` of its own. */
  close(error: () => InferdError): void {
    this.#hand(this.conversation.fail(error));
  }

  async #dial(): Promise<void> {
    const { address, environment } = this.#options;
    const events = {
      onBytes: (bytes: Uint8Array) => this.#hand(this.conversation.received(bytes)),
      onWritable: () => this.#owner.onRoom(this),
      onEnd: (problem: string) => this.#lost(problem),
    };
    try {
      const transport = await environment.dial(address, events, this.#dialing.signal);
      if (this.conversation.closed) return transport.close();
      this.#transport = transport;
      this.#flush();
    } catch (error) {
      if (error instanceof InferdError) this.#hand(this.conversation.fail(() => error));
      else this.#lost(error instanceof Error ? error.message : String(error));
    }
  }

  #lost(problem: string): void {
    this.#hand(this.conversation.lost(problem));
  }

  #hand(events: readonly Event[]): void {
    this.#flush();
    for (const event of events) {
      if (event.type === "greeted" || event.type === "ended") this.#options.environment.clearTimer(this.#timer);
      if (event.type === "ended") this.#hangUp();
      this.#owner.onEvent(this, event);
    }
    this.#leaveWhenDone();
    if (this.conversation.usable) this.#owner.onRoom(this);
  }

  /** After GOAWAY the side that has nothing in flight closes first; and for a silent server nobody waits any more. */
  #leaveWhenDone(): void {
    const { conversation } = this;
    if (!(conversation.draining || conversation.silent) || !conversation.idle || conversation.closed) return;
    this.close(() => connectFailed(this.#options.address.url, "the server is going away, or silent"));
  }

  #flush(): void {
    const { outbox } = this.conversation;
    if (this.#transport === undefined || outbox.length === 0) return;
    this.#transport.send(outbox.splice(0));
  }

  #hangUp(): void {
    this.#dialing.abort();
    this.#transport?.close();
  }
}
