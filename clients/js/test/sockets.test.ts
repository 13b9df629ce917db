/** Real sockets whose other end does not behave: it does not read, does not greet, or is not there. */

import assert from "node:assert/strict";
import { createServer, Socket, type AddressInfo, type Server } from "node:net";
import { test } from "node:test";
import { encode } from "@msgpack/msgpack";
import { Client, DeadlineExceeded, Unavailable } from "../src/index.js";
import { frame, readFrames, resultFrame, Wire } from "./fake-server.js";

const MIB = 1024 * 1024;
const WELCOME = frame(Wire.WELCOME, {
  header: { version: 1 },
  payload: encode({ models: [] }),
  hasValues: true,
  credits: 8,
});

async function listening(onSocket: (socket: Socket) => void): Promise<[Server, string]> {
  const server = createServer(onSocket);
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  return [server, `inferd://127.0.0.1:${(server.address() as AddressInfo).port}`];
}

test("a frame that could not be sent in time is cancelled, and the stream is still in step", async () => {
  const seen: string[] = [];
  let resume = () => {};
  const [server, url] = await listening((socket) => {
    let bytes = Buffer.alloc(0);
    socket.once("readable", () => {
      const hello = socket.read() as Buffer; // and from here on nothing
      assert.equal(readFrames(hello)[0][0]!.type, Wire.HELLO);
      socket.write(WELCOME);
    });
    resume = () => {
      const chunks: Buffer[] = [];
      let received = 0;
      socket.on("data", (chunk: Buffer) => {
        chunks.push(chunk);
        received += chunk.length;
        if (received < 32 * MIB) return; // the large one is not whole: joining it each time would take its time
        bytes = Buffer.concat([bytes, ...chunks.splice(0)]);
        const [frames, used] = readFrames(bytes);
        bytes = bytes.subarray(used);
        for (const { type, id, header } of frames) {
          seen.push(type === Wire.CANCEL ? "CANCEL" : (header["model"] as string));
          if (type === Wire.INFER) socket.write(resultFrame(id, { model: header["model"] }, 8));
        }
      });
    };
  });
  const client = new Client(url);
  try {
    await client.models();
    const call = client.infer("large", { x: new Uint8Array(32 * MIB) }, { timeoutMs: 100 });
    await assert.rejects(call, DeadlineExceeded);
    const next = client.infer("next", {});
    resume();
    assert.deepEqual((await next).outputs, { model: "next" });
    assert.deepEqual(seen, ["large", "CANCEL", "next"]);
  } finally {
    client.close();
    server.close();
  }
});

test("an answer is read while the request is still being written", async () => {
  const [server, url] = await listening((socket) => {
    let greeted = false;
    socket.on("readable", () => {
      if (!greeted) {
        greeted = socket.read() !== null;
        if (greeted) socket.write(WELCOME);
        return;
      }
      const prefix = socket.read(24) as Buffer | null;
      if (prefix === null) return;
      socket.removeAllListeners("readable");
      const answer = resultFrame(prefix.readBigUInt64LE(16), { blob: "x".repeat(16 * MIB) }, 8);
      socket.write(answer, () => socket.resume()); // only then it reads on
    });
  });
  const client = new Client(url);
  try {
    const { outputs } = await client.infer("echo", { x: new Uint8Array(32 * MIB) });
    assert.equal((outputs["blob"] as string).length, 16 * MIB);
  } finally {
    client.close();
    server.close();
  }
});

test("a connection that ends before WELCOME, and a port where nobody is, are CONNECT_FAILED", async () => {
  const [server, url] = await listening((socket) => socket.resume().end());
  const hungUp = new Client(url, { reconnect: false });
  await assert.rejects(hungUp.infer("echo", {}), (error) => {
    return (
      error instanceof Unavailable && error.reason === "CONNECT_FAILED" && error.message.includes("before WELCOME")
    );
  });
  await new Promise((resolve) => server.close(resolve));
  for (const nowhere of [url, "inferd+unix:///nowhere/at/all"]) {
    const client = new Client(nowhere, { reconnect: false });
    await assert.rejects(client.infer("echo", {}), (error) => {
      return error instanceof Unavailable && error.reason === "CONNECT_FAILED" && error.message.includes(nowhere);
    });
  }
});

test("an IPv6 address is written in brackets", async (t) => {
  const server = createServer((socket) => socket.resume().write(WELCOME));
  const listens = await new Promise<boolean>((resolve) => {
    server.once("error", () => resolve(false)).listen(0, "::1", () => resolve(true));
  });
  if (!listens) return t.skip("there is no IPv6 here");
  const client = new Client(`inferd://[::1]:${(server.address() as AddressInfo).port}`);
  assert.deepEqual(await client.models(), []);
  client.close();
  server.close();
});

test("the system asks a server that has been silent for 30 s whether it is there", async (t) => {
  const keepAlive = t.mock.method(Socket.prototype, "setKeepAlive");
  const [server, url] = await listening((socket) => socket.resume().write(WELCOME));
  const client = new Client(url);
  await client.models();
  assert.deepEqual(
    keepAlive.mock.calls.map((call) => call.arguments),
    [[true, 30_000]],
  );
  client.close();
  server.close();
});
