/** TCP and Unix sockets, for Node. Never loaded in a browser. */

import { connect } from "node:net";
import type { Address } from "./address.js";
import type { Transport, TransportEvents } from "./transport.js";

// The server's own (inferd/serve/listener.py): after so long without a byte the system asks whether the peer is there,
// and ends the connection within seconds when it is not. By itself it takes two hours. A Unix socket has no such thing.
const KEEP_IDLE_MS = 30_000;

/** Connects to a TCP or Unix socket. Rejects with an Error that says why it cannot. */
export function dialSocket(
  address: Exclude<Address, { kind: "websocket" }>,
  events: TransportEvents,
  signal: AbortSignal,
): Promise<Transport> {
  return new Promise((resolve, reject) => {
    const socket = connect(
      address.kind === "unix" ? { path: address.path } : { host: address.host, port: address.port },
    );
    let open = false;
    let problem = "";
    const stop = () => {
      open = false;
      socket.destroy();
    };
    signal.addEventListener("abort", stop);
    if (signal.aborted) stop();
    socket.on("connect", () => {
      open = true;
      socket.setNoDelay(true);
      socket.setKeepAlive(true, KEEP_IDLE_MS);
      resolve({
        get congested() {
          return socket.writableNeedDrain;
        },
        send(parts) {
          if (!open) return;
          socket.cork(); // one gathered write
          for (const part of parts) socket.write(part);
          socket.uncork();
        },
        close: stop,
      });
    });
    socket.on("data", (chunk: Buffer) => {
      if (open) events.onBytes(new Uint8Array(chunk.buffer, chunk.byteOffset, chunk.length));
    });
    socket.on("drain", () => {
      if (open) events.onWritable();
    });
    socket.on("error", (error: NodeJS.ErrnoException) => {
      problem = error.message || (error.code ?? "it failed"); // several addresses that all failed have only a code
    });
    socket.on("close", () => {
      if (open) events.onEnd(problem);
      open = false;
      reject(new Error(problem || "the connection was closed")); // which changes nothing once it is open
    });
  });
}
