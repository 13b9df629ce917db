/** What goes through a WebSocket, with one that is a part of the test. */

import assert from "node:assert/strict";
import { test } from "node:test";
import { Client, ConfigError } from "../src/index.js";
import { dialWith, type Transport, type WebSocketClass, type WebSocketLike } from "../src/transport.js";

class FakeSocket extends EventTarget implements WebSocketLike {
  static last: FakeSocket;
  binaryType = "blob";
  bufferedAmount = 0;
  readonly sent: Uint8Array[] = [];
  closed = false;

  constructor(
    readonly url: string,
    readonly protocol: string,
  ) {
    super();
    FakeSocket.last = this;
  }

  send(data: Uint8Array): void {
    this.sent.push(data);
  }

  close(): void {
    this.closed = true;
  }

  hears(data: unknown): void {
    this.dispatchEvent(Object.assign(new Event("message"), { data }));
  }

  ends(code: number, reason = ""): void {
    this.dispatchEvent(Object.assign(new Event("close"), { code, reason }));
  }
}

class Events {
  readonly heard: unknown[] = [];
  onWritable = () => {};
  onBytes = (bytes: Uint8Array) => this.heard.push([...bytes]);
  onEnd = (problem: string) => this.heard.push(problem);
}

const ADDRESS = { kind: "websocket", url: "ws://there/ws" } as const;

async function opened(events = new Events(), signal = new AbortController().signal): Promise<[Transport, FakeSocket]> {
  const dialing = dialWith(FakeSocket as unknown as WebSocketClass)(ADDRESS, events, signal);
  FakeSocket.last.dispatchEvent(new Event("open"));
  return [await dialing, FakeSocket.last];
}

test("it asks for the subprotocol, and for binary messages as array buffers", async () => {
  const [, socket] = await opened();
  assert.deepEqual([socket.url, socket.protocol, socket.binaryType], [ADDRESS.url, "inferd.v1", "arraybuffer"]);
});

test("what is sent goes in messages of at most 256 KiB, in memory of their own", async () => {
  const [transport, socket] = await opened();
  const large = new Uint8Array(700_000).map((_, i) => i % 251);
  const parts = [Uint8Array.of(1, 2, 3), large, new Uint8Array(0), Uint8Array.of(4)];
  transport.send(parts);
  assert.deepEqual(
    socket.sent.map(({ length }) => length),
    [262_144, 262_144, 175_716],
  );
  assert.ok(Buffer.concat(socket.sent).equals(Buffer.concat(parts)));
  large.fill(0);
  assert.equal(socket.sent[0]![4], 1);
  transport.send([Uint8Array.of(5), Uint8Array.of(6)]);
  assert.deepEqual(socket.sent.at(-1), Uint8Array.of(5, 6));
});

test("it is congested while much waits to be sent, and says when that is over", async () => {
  const events = new Events();
  const [transport, socket] = await opened(events);
  assert.equal(transport.congested, false);
  socket.bufferedAmount = 300_000;
  assert.equal(transport.congested, true);
  const over = new Promise<void>((resolve) => (events.onWritable = resolve));
  socket.bufferedAmount = 0;
  await over;
  assert.equal(transport.congested, false);
});

test("bytes are handed on; text, and the end, end it once", async () => {
  const events = new Events();
  const [transport, socket] = await opened(events);
  socket.hears(Uint8Array.of(1, 2).buffer);
  socket.hears("text");
  socket.hears(Uint8Array.of(3).buffer);
  socket.ends(1006);
  assert.deepEqual(events.heard, [[1, 2], "the server sent text, which is not this protocol"]);
  assert.ok(socket.closed);
  transport.send([Uint8Array.of(1)]);
  assert.deepEqual(socket.sent, []);

  const others = new Events();
  const [, other] = await opened(others);
  other.ends(1012, "restart");
  assert.deepEqual(others.heard, ["the WebSocket was closed with 1012, restart"]);
});

test("a server without the subprotocol, a refusal, and giving up are failures to connect", async () => {
  class Other extends FakeSocket {
    override readonly protocol = "";
  }
  const { signal } = new AbortController();
  const strange = dialWith(Other as unknown as WebSocketClass)(ADDRESS, new Events(), signal);
  FakeSocket.last.dispatchEvent(new Event("open"));
  await assert.rejects(strange, /does not speak inferd\.v1/);
  const refused = dialWith(FakeSocket as unknown as WebSocketClass)(ADDRESS, new Events(), signal);
  FakeSocket.last.dispatchEvent(new Event("error"));
  FakeSocket.last.ends(1006);
  await assert.rejects(refused, /closed with 1006/);
  const giving = new AbortController();
  const late = dialWith(FakeSocket as unknown as WebSocketClass)(ADDRESS, new Events(), giving.signal);
  giving.abort();
  assert.ok(FakeSocket.last.closed);
  FakeSocket.last.ends(1006);
  await assert.rejects(late);
});

test("without a WebSocket class the error says what to do", async () => {
  const dialing = dialWith(undefined)(ADDRESS, new Events(), new AbortController().signal);
  await assert.rejects(dialing, (error) => error instanceof ConfigError && /from version 22/.test(error.message));
});

test("a mistake in onState is reported as such, and the client goes on", (t) => {
  const reported: (() => void)[] = [];
  t.mock.method(globalThis, "queueMicrotask", (report: () => void) => reported.push(report));
  const client = new Client("ws://there/ws", { WebSocket: FakeSocket as unknown as WebSocketClass });
  client.onState = () => {
    throw new Error("a mistake of the page");
  };
  client.close();
  assert.equal(client.state, "closed");
  assert.equal(reported.length, 1);
  assert.throws(reported[0]!, /a mistake of the page/);
});
