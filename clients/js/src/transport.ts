/** What carries the bytes: a WebSocket here, TCP and Unix sockets in sockets.ts, which only Node loads. */

import type { Address } from "./address.js";
import { ConfigError } from "./errors.js";

export interface Transport {
  /** Whether what was sent lately is still here: what is sent now would only wait behind it. */
  readonly congested: boolean;
  /** Sends frames; each is one or more of `parts`. */
  send(parts: readonly Uint8Array[]): void;
  /** Ends the connection. `onEnd` need not be called. */
  close(): void;
}

export interface TransportEvents {
  /** Bytes have come, in memory that nobody else will write to. */
  onBytes(bytes: Uint8Array): void;
  /** It is no longer congested. */
  onWritable(): void;
  /** The connection has ended; `problem` says why, where that is known. */
  onEnd(problem: string): void;
}

/** Connects. Rejects with an Error that says why it cannot, and with a ConfigError when it never can. */
export type Dial = (address: Address, events: TransportEvents, signal: AbortSignal) => Promise<Transport>;

/** The part of a WebSocket class that is used: a browser's, Node 22's, or that of the package `ws`. */
export interface WebSocketLike {
  binaryType: string;
  readonly bufferedAmount: number;
  readonly protocol: string;
  send(data: Uint8Array): void;
  close(code?: number, reason?: string): void;
  addEventListener(type: string, listener: (event: any) => void): void;
}
export type WebSocketClass = new (url: string, protocols: string) => WebSocketLike;

const SUBPROTOCOL = "inferd.v1";
// The gateway holds a message as a whole and takes less than 1 MiB. In smaller ones a large frame moves on meanwhile.
const MAX_MESSAGE_BYTES = 256 * 1024;
// What may wait in the WebSocket before no more is given to it. It has no event for that, so it is looked at again.
const CONGESTED_BYTES = 256 * 1024;
const LOOK_AGAIN_MS = 10;

/** The dial for a platform whose WebSocket class is `WebSocket`. */
export function dialWith(WebSocket: WebSocketClass | undefined): Dial {
  return async (address, events, signal) => {
    if (address.kind === "websocket") {
      if (WebSocket === undefined) {
        throw new ConfigError(
          "there is no WebSocket here (Node has it from version 22); pass one: new Client(url, { WebSocket })",
        );
      }
      return dialWebSocket(new WebSocket(address.url, SUBPROTOCOL), events, signal);
    }
    // A bundle for browsers has an empty module in its place.
    const sockets: Partial<typeof import("./sockets.js")> = await import("./sockets.js");
    if (sockets.dialSocket === undefined) {
      throw new ConfigError(
        `${address.url} is a TCP or Unix socket, which a browser cannot open; use the daemon's ws://HOST:PORT/ws`,
      );
    }
    return sockets.dialSocket(address, events, signal);
  };
}

function dialWebSocket(socket: WebSocketLike, events: TransportEvents, signal: AbortSignal): Promise<Transport> {
  return new Promise((resolve, reject) => {
    let open = false;
    let looking: ReturnType<typeof setTimeout> | undefined;
    socket.binaryType = "arraybuffer";
    const stop = () => {
      open = false;
      clearTimeout(looking);
      socket.close();
    };
    signal.addEventListener("abort", stop);
    if (signal.aborted) stop();
    const transport: Transport = {
      get congested() {
        const congested = socket.bufferedAmount > CONGESTED_BYTES;
        if (congested && open) looking ??= setTimeout(look, LOOK_AGAIN_MS);
        return congested;
      },
      send(parts) {
        if (open) for (const message of messages(parts)) socket.send(message);
      },
      close: stop,
    };
    const look = () => {
      looking = undefined;
      if (!transport.congested) events.onWritable();
    };
    socket.addEventListener("open", () => {
      if (socket.protocol !== SUBPROTOCOL) {
        stop();
        reject(new Error(`the server does not speak ${SUBPROTOCOL} there`));
        return;
      }
      open = true;
      resolve(transport);
    });
    socket.addEventListener("message", ({ data }: { data: unknown }) => {
      if (!open) return;
      if (data instanceof ArrayBuffer) {
        events.onBytes(new Uint8Array(data));
      } else {
        stop();
        events.onEnd("the server sent text, which is not this protocol");
      }
    });
    // Says nothing in a browser, so that a page cannot find out what listens where. "close" follows.
    socket.addEventListener("error", () => {});
    socket.addEventListener("close", ({ code, reason }: { code: number; reason: string }) => {
      clearTimeout(looking);
      const problem = `the WebSocket was closed with ${code}${reason ? `, ${reason}` : ""}`;
      if (open) events.onEnd(problem);
      open = false;
      reject(new Error(problem)); // which changes nothing once it is open
    });
  });
}

/** The bytes of `parts` as few messages: where one ends means nothing, only its size has a limit. */
function* messages(parts: readonly Uint8Array[]): Generator<Uint8Array> {
  let left = parts.reduce((sum, part) => sum + part.length, 0);
  let message = new Uint8Array(Math.min(left, MAX_MESSAGE_BYTES));
  let filled = 0;
  for (const part of parts) {
    for (let at = 0; at < part.length;) {
      const piece = part.subarray(at, at + message.length - filled);
      message.set(piece, filled);
      at += piece.length;
      filled += piece.length;
      if (filled < message.length) continue;
      yield message;
      left -= filled;
      message = new Uint8Array(Math.min(left, MAX_MESSAGE_BYTES)); // not every WebSocket copies what it is given
      filled = 0;
    }
  }
}
