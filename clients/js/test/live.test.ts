/** The live list in Node, against a real daemon: TCP, a Unix socket, and a WebSocket through the gateway. */

import assert from "node:assert/strict";
import { after, before, describe, test } from "node:test";
import { WebSocket } from "ws";
import { Client, Unauthenticated, type Tensor } from "../src/index.js";
import { Daemon, missing, type Urls } from "./daemon.js";
import { live } from "./live.js";

const KINDS: (keyof Urls)[] = ["tcp", "unix", "websocket"];
const skip = missing ?? false;

describe("live", { skip }, () => {
  let daemon: Daemon;
  before(async () => {
    daemon = await Daemon.start();
  });
  after(() => daemon?.remove());

  for (const kind of KINDS) {
    describe(kind, () => {
      live("inferd://unknown").forEach(({ name }, i) => {
        test(name, { timeout: 30_000 }, async () => live(daemon.urls[kind], { WebSocket })[i]!.run());
      });
    });
  }

  test(
    "a restart of the daemon: what is in flight is finished, what comes meanwhile is answered by the next",
    { timeout: 60_000 },
    async () => {
      const clients = KINDS.map((kind) => new Client(daemon.urls[kind], { WebSocket }));
      try {
        await Promise.all(clients.map((client) => client.models()));
        const finished = clients.map((client, n) => client.infer("slow", { x: Float32Array.of(n) }));
        await Promise.all(clients.map((client) => client.status())); // so the daemon has all of them
        const waiting: Promise<unknown>[] = [];
        await daemon.stop(async () => {
          for (const [n, result] of (await Promise.all(finished)).entries())
            assert.deepEqual((result.outputs["y"] as Tensor).data, Float32Array.of(n));
        });
        for (const client of clients)
          waiting.push(client.infer("echo", { n: 1 }).then(({ outputs }) => assert.deepEqual(outputs, { n: 1 })));
        await daemon.again();
        await Promise.all(waiting);
      } finally {
        for (const client of clients) client.close();
      }
    },
  );
});

describe("live, with tokens", { skip }, () => {
  const token = "a-token-of-32-characters-for-ada";
  let daemon: Daemon;
  before(async () => {
    daemon = await Daemon.start({ tokens: `ada: ${token}\n` });
  });
  after(() => daemon?.remove());

  for (const kind of KINDS) {
    test(
      `${kind}: who has one is let in, ${kind === "unix" ? "and so is who has none" : "who has none or another is not"}`,
      { timeout: 30_000 },
      async () => {
        const welcome = new Client(daemon.urls[kind], { WebSocket, token });
        assert.deepEqual((await welcome.infer("echo", { n: 1 })).outputs, { n: 1 });
        welcome.close();
        for (const other of [undefined, `${token.slice(1)}b`]) {
          const stranger = new Client(daemon.urls[kind], { WebSocket, token: other });
          if (kind === "unix" && other === undefined) {
            assert.deepEqual((await stranger.infer("echo", { n: 1 })).outputs, { n: 1 });
          } else if (kind !== "unix") {
            await assert.rejects(
              stranger.infer("echo", { n: 1 }),
              (error) => error instanceof Unauthenticated && error.reason === "TOKEN",
            );
            assert.equal(stranger.state, "closed");
          }
          stranger.close();
        }
      },
    );
  }
});
