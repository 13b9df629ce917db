/** What a client does with a real daemon, which serves the models of test/daemon.ts. */

import {
  Client,
  DeadlineExceeded,
  Internal,
  InvalidArgument,
  NotFound,
  ResourceExhausted,
  Superseded,
  Tensor,
  type ClientOptions,
  type Dtype,
} from "../src/index.js";
import { TENSORS, VALUES } from "./behaviour.js";
import { equal, expect, fails, type Behaviour } from "./expect.js";

/** The list for the daemon at `url`. */
export function live(url: string, options: ClientOptions = {}): Behaviour[] {
  const behaviour = (name: string, scenario: (client: Client) => Promise<void>): Behaviour => ({
    name,
    async run() {
      const client = new Client(url, options);
      try {
        await scenario(client);
      } finally {
        client.close();
      }
    },
  });
  return [
    behaviour("it connects, and says who is served", async (client) => {
      equal(client.state, "connecting");
      const models = await client.models();
      equal(client.state, "open");
      const ner = models.find(({ name }) => name === "ner");
      equal(ner?.inputs, [["text", "STRING", []]]);
      const status = await client.status();
      expect("models" in status, JSON.stringify(status));
    }),
    behaviour("text is marked", async (client) => {
      const { outputs } = await client.infer("ner", { text: "Ada Lovelace met Charles Babbage in London in 1833." });
      const spans = outputs["spans"] as { entity: string; text: string; start: number; end: number }[];
      equal(
        spans.map(({ entity, text }) => [entity, text]),
        [
          ["PER", "Ada Lovelace"],
          ["PER", "Charles Babbage"],
          ["LOC", "London"],
          ["DATE", "1833"],
        ],
      );
      equal([spans[0]!.start, spans[0]!.end], [0, 12]);
    }),
    behaviour("tensors of every dtype, and values, come back as they went", async (client) => {
      const tensors = Object.fromEntries(
        Object.entries(TENSORS).map(([dtype, data]) => [dtype, new Tensor(dtype as Dtype, [2, 3], data)]),
      );
      const { outputs } = await client.infer("echo", { ...tensors, ...VALUES, bytes: [VALUES["bytes"]!] });
      for (const [name, tensor] of Object.entries(tensors)) equal(outputs[name], tensor, name);
      for (const [name, value] of Object.entries({ ...VALUES, bytes: [VALUES["bytes"]!] }))
        equal(outputs[name], value, name);
    }),
    behaviour("rows in, rows out", async (client) => {
      const x = new Tensor("FP32", [3, 2], Float32Array.of(1, 2, 3, 4, 5, 6));
      equal((await client.infer("echo", { x, text: ["a", "b", "c"] }, { rows: 3 })).outputs, {
        x,
        text: ["a", "b", "c"],
      });
    }),
    behaviour("a hundred calls at once each get their own answer", async (client) => {
      const results = await Promise.all(
        Array.from({ length: 100 }, (_, n) => client.infer("echo", { n, x: Int32Array.of(n) })),
      );
      results.forEach(({ outputs }, n) => equal(outputs, { n, x: new Tensor("INT32", [1], Int32Array.of(n)) }));
    }),
    behaviour("large payloads go both ways at once", async (client) => {
      const x = new Uint8Array(6 * 2 ** 20);
      for (let i = 0; i < x.length; i++) x[i] = (i * 31) >> 3;
      const results = await Promise.all([1, 2, 3, 4].map((n) => client.infer("echo", { x, n })));
      results.forEach(({ outputs }, i) => {
        equal(outputs["n"], i + 1);
        const { data } = outputs["x"] as Tensor;
        expect(data.length === x.length && data.every((item, at) => item === x[at]), "the same bytes");
      });
    }),
    behaviour("errors have the server's words", async (client) => {
      const missing = await fails(client.infer("nobody", {}), NotFound, "no model 'nobody'");
      equal([missing.reason, missing.retryable], ["MODEL_NOT_FOUND", false]);
      await fails(client.infer("ner", { text: "x", more: 1 }), InvalidArgument, "more");
      equal((await fails(client.infer("picky", { x: Float32Array.of(1, 2) }), InvalidArgument)).reason, "INPUT_SHAPE");
      await fails(client.infer("picky", { x: [1] }), InvalidArgument, "pass a typed array or a Tensor, not a list");
      equal((await fails(client.infer("picky", { x: Float32Array.of(-1) }), Internal)).reason, "MODEL_FAILED");
      await fails(
        client.infer("echo", { x: new Uint8Array(65 * 2 ** 20) }),
        InvalidArgument,
        "is over this server's limit",
      );
      equal((await client.infer("picky", { x: Float32Array.of(1) })).outputs, {
        y: new Tensor("FP32", [1], Float32Array.of(2)),
      });
    }),
    behaviour("a call whose time is too short ends before its answer, and the connection goes on", async (client) => {
      await client.models();
      // The first keeps the device busy; the second is still in the queue when its time is up, or is refused at once
      // by a server that has learned how long the first takes.
      const [busy, late] = await Promise.allSettled([
        client.infer("slow", { x: Float32Array.of(1) }),
        client.infer("slow", { x: Float32Array.of(2) }, { timeoutMs: 30 }),
      ]);
      expect(busy.status === "fulfilled", "the first is answered");
      expect(late.status === "rejected", "the second is not");
      const error: unknown = late.reason;
      expect(
        error instanceof DeadlineExceeded || (error instanceof ResourceExhausted && error.reason === "OVERLOADED"),
        String(error),
      );
      equal((await client.infer("echo", { n: 1 })).outputs, { n: 1 });
    }),
    behaviour("the latest with a key wins: what was queued before it is never computed", async (client) => {
      await client.models();
      const busy = client.infer("slow", { x: Float32Array.of(0) });
      const calls = Array.from({ length: 20 }, (_, n) =>
        client.infer("slow", { x: Float32Array.of(n) }, { supersede: "field" }),
      );
      const outcomes = await Promise.allSettled(calls);
      await busy;
      equal(outcomes.at(-1)!.status, "fulfilled");
      const superseded = outcomes.filter(
        (outcome) => outcome.status === "rejected" && outcome.reason instanceof Superseded,
      );
      expect(superseded.length >= 10, `${superseded.length} of 20 were superseded`);
      equal(outcomes.filter(({ status }) => status === "fulfilled").length + superseded.length, 20);
    }),
    behaviour("aborting takes a call back, and the connection goes on", async (client) => {
      await client.models();
      const busy = client.infer("slow", { x: Float32Array.of(0) });
      const controller = new AbortController();
      const call = client.infer("slow", { x: Float32Array.of(1) }, { signal: controller.signal });
      controller.abort(new Error("typed on"));
      await fails(call, Error, "typed on");
      await busy;
      equal((await client.infer("echo", { n: 1 })).outputs, { n: 1 });
    }),
    behaviour("the timeline says where the time went", async (client) => {
      const { timing, roundTripMs } = await client.infer(
        "virtual",
        { x: Float32Array.of(1) },
        { timing: true, priority: "interactive" },
      );
      expect(timing !== undefined, "there is one");
      expect(
        timing.computeMs! >= 5 && timing.totalMs! >= timing.computeMs! && roundTripMs >= timing.totalMs!,
        JSON.stringify({ timing, roundTripMs }),
      );
      expect(
        timing.batchRows! >= 1 && typeof timing.batchId === "number" && typeof timing.released === "string",
        JSON.stringify(timing),
      );
    }),
  ];
}
