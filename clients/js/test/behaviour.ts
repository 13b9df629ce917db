/** What every client does, against a FakeServer: the list of tests/client/test_client_behaviour.py where it applies. */

import { encode } from "@msgpack/msgpack";
import {
  Cancelled,
  ConfigError,
  DeadlineExceeded,
  InferdError,
  Internal,
  InvalidArgument,
  NotFound,
  ProtocolError,
  ResourceExhausted,
  Superseded,
  Tensor,
  Unauthenticated,
  Unavailable,
  Unimplemented,
  Client,
  type Dtype,
  type ClientOptions,
  type InferOptions,
  type TypedArray,
  type Value,
} from "../src/index.js";
import { equal, expect, fails, turned, until, type Behaviour } from "./expect.js";
import { FakeServer, frame, Refusal, unpackData, Wire } from "./fake-server.js";

type Scenario = (server: FakeServer, client: Client) => Promise<void>;

/** A behaviour of a client and its server; both are gone afterwards, and leave no timer behind. */
function behaviour(name: string, scenario: Scenario, makeServer = () => new FakeServer()): Behaviour {
  return {
    name,
    async run() {
      const server = makeServer();
      const client = server.client();
      try {
        await scenario(server, client);
      } finally {
        client.close();
      }
      equal(server.clock.pending, 0, "timers left behind");
      equal(server.open, 0, "connections left behind");
    },
  };
}

/** A promise whose rejection is looked at later. */
function later<T>(promise: Promise<T>): Promise<T> {
  promise.catch(() => {});
  return promise;
}

const HALF = typeof Float16Array === "undefined" ? Uint16Array : Float16Array;
/** A tensor of every dtype. */
export const TENSORS: Record<Dtype, TypedArray> = {
  BOOL: Uint8Array.of(1, 0, 1, 1, 0, 0),
  UINT8: Uint8Array.of(0, 1, 2, 254, 255, 7),
  UINT16: Uint16Array.of(0, 1, 2, 3, 65535, 7),
  UINT32: Uint32Array.of(0, 1, 2, 3, 2 ** 32 - 1, 7),
  UINT64: BigUint64Array.of(0n, 1n, 2n, 3n, 2n ** 64n - 1n, 7n),
  INT8: Int8Array.of(0, 1, -2, 127, -128, 7),
  INT16: Int16Array.of(0, 1, -2, 32767, -32768, 7),
  INT32: Int32Array.of(0, 1, -2, 2 ** 31 - 1, -(2 ** 31), 7),
  INT64: BigInt64Array.of(0n, 1n, -2n, 2n ** 63n - 1n, -(2n ** 63n), 7n),
  FP16: HALF.of(0, 1, 2, 3, 4, 5),
  BF16: Uint16Array.of(0x3f80, 0x4000, 0xbf80, 0x7f80, 0, 1),
  FP32: Float32Array.of(0, 1.5, -2.5, Infinity, NaN, 7),
  FP64: Float64Array.of(0, 1.5, -2.5, Infinity, NaN, Math.PI),
};

export const VALUES: Record<string, Value> = {
  text: "Ada Lovelace, Zürich 🙂",
  n: 3,
  negative: -40_000,
  float: 0.5,
  yes: true,
  nothing: null,
  big: 2 ** 53 - 1,
  bigger: 2n ** 63n - 1n,
  least: -(2n ** 63n),
  list: [1, 2.5, null, "x", [true]],
  map: { k: [1], ü: { deep: "er" } },
  bytes: Uint8Array.of(1, 2, 255) as unknown as Value,
};
const { bytes: BYTES, ...JUST_VALUES } = VALUES;

const data: Behaviour[] = [
  behaviour("tensors of every dtype and shape, and values, come back as they went", async (server, client) => {
    const tensors = Object.fromEntries(
      Object.entries(TENSORS).flatMap(([dtype, data]) => [
        [dtype, new Tensor(dtype as Dtype, [2, 3], data)],
        [`${dtype} scalar`, new Tensor(dtype as Dtype, [], data.slice(1, 2))],
        [`${dtype} empty`, new Tensor(dtype as Dtype, [0, 4], data.slice(0, 0))],
      ]),
    );
    const { outputs } = await client.infer("echo", { ...tensors, ...JUST_VALUES, map: { raw: BYTES! } });
    for (const [name, tensor] of Object.entries(tensors)) equal(outputs[name], tensor, name);
    for (const [name, value] of Object.entries({ ...JUST_VALUES, map: { raw: BYTES! } }))
      equal(outputs[name], value, name);
    equal([server.requests[0]!.header["rows"], server.requests[0]!.header["deadline_ms"]], [undefined, 30_000]);
  }),
  behaviour("a typed array is a tensor of its dtype and length, wherever it lies in its buffer", async (_, client) => {
    const half = new Float32Array(8).map((__, i) => i).subarray(3, 6);
    const { outputs } = await client.infer("echo", {
      half,
      clamped: new Uint8ClampedArray([1, 300]),
      long: BigInt64Array.of(5n),
    });
    equal(outputs["half"], new Tensor("FP32", [3], Float32Array.of(3, 4, 5)));
    equal(outputs["clamped"], new Tensor("UINT8", [2], Uint8Array.of(1, 255)));
    equal(outputs["long"], new Tensor("INT64", [1], BigInt64Array.of(5n)));
  }),
  behaviour("a result is the caller's to keep", async (_, client) => {
    const first = (await client.infer("echo", { x: Float32Array.of(1, 2) })).outputs["x"] as Tensor;
    await client.infer("echo", { x: Float32Array.of(7, 8) });
    equal(first.data, Float32Array.of(1, 2));
    first.data[0] = 9;
    equal(first.data[0], 9);
  }),
  behaviour(
    "an answer in any pieces is the same answer",
    async (server, client) => {
      equal(
        (await client.infer("double", { x: Int32Array.of(1, 2, 3) })).outputs["y"],
        new Tensor("INT32", [3], Int32Array.of(2, 4, 6)),
      );
      equal((await client.infer("echo", { text: "ä" })).outputs, { text: "ä" });
      equal(server.connections, 1);
    },
    () => new FakeServer(64, 2 ** 26, 5),
  ),
  behaviour("rows are sent and must lead every input", async (server, client) => {
    const x = new Tensor("FP32", [3, 2], new Float32Array(6));
    const { outputs } = await client.infer("echo", { x, text: ["a", "b", "c"] }, { rows: 3 });
    equal(outputs, { x, text: ["a", "b", "c"] });
    equal(server.requests[0]!.header["rows"], 3);
    await fails(
      client.infer("echo", { x, text: ["a"] }, { rows: 3 }),
      InvalidArgument,
      "'text' must lead with rows = 3, got 1",
    );
    await fails(client.infer("echo", { x }, { rows: 2 }), InvalidArgument, "'x' must lead with rows = 2, got 3");
    await fails(client.infer("echo", { text: "abc" }, { rows: 3 }), InvalidArgument, "a list with one value per row");
    await fails(client.infer("echo", {}, { rows: 0 }), InvalidArgument, "'rows' must be a whole number");
    equal(server.requests.length, 1);
  }),
  behaviour("what is undefined is absent", async (_, client) => {
    equal((await client.infer("echo", { a: 1, b: undefined, m: { c: undefined, d: 2 } })).outputs, {
      a: 1,
      m: { d: 2 },
    });
  }),
  behaviour("models and status are the server's words", async (server, client) => {
    const models = await client.models();
    equal(
      models.map(({ name }) => name),
      Object.keys(server.models),
    );
    equal(Object.keys(models[0]!), ["name", "inputs", "outputs", "max_batch_size"]);
    equal(await client.status(), { queued: 3 });
    models[0]!.name = "changed";
    equal((await client.models())[0]!.name, "echo");
    equal([server.connections, server.requests.length], [1, 0]);
  }),
  behaviour("HELLO says the version, the name and the token, and the token is shown nowhere", async (server) => {
    const secretive = server.client({ token: "a-secret-of-mine-1234", name: "page" });
    await secretive.models();
    equal(server.hellos.at(-1)!.header, { versions: [1, 1], client: "page", token: "a-secret-of-mine-1234" });
    const shown = JSON.stringify(secretive) + String(secretive) + Object.values(secretive).join();
    expect(!shown.includes("secret"), shown);
    secretive.close();
  }),
];

const errors: Behaviour[] = [
  behaviour("an error of the server is a class by its code, with its reason and id", async (_, client) => {
    await fails(client.infer("nobody", {}), NotFound, "no model 'nobody'");
    const refuse = (header: Record<string, Value>) => client.infer("refuse", { header });
    await fails(refuse({ code: "INTERNAL", reason: "MODEL_FAILED", message: "it raised" }), Internal, "it raised");
    const full = await fails(
      refuse({ code: "RESOURCE_EXHAUSTED", reason: "SLAB_FULL", message: "", retryable: true }),
      ResourceExhausted,
    );
    equal(
      [full.code, full.reason, full.retryable, full.retryAfterMs, full.requestId],
      ["RESOURCE_EXHAUSTED", "SLAB_FULL", true, undefined, 3],
    );
    const later = await fails(
      refuse({
        code: "RESOURCE_EXHAUSTED",
        reason: "OVERLOADED",
        message: "about 80 ms",
        retryable: true,
        retry_after_ms: 12.5,
      }),
      ResourceExhausted,
    );
    equal(later.retryAfterMs, 12.5);
    const replaced = await fails(refuse({ code: "CANCELLED", reason: "SUPERSEDED", message: "" }), Superseded);
    expect(replaced instanceof Cancelled && !replaced.retryable, "Superseded is a Cancelled");
    const strange = await fails(refuse({ code: "TEAPOT", message: "short and stout" }), InferdError, "short");
    equal([strange.code, strange.constructor], ["UNKNOWN", InferdError]);
    equal(
      (await fails(refuse({ code: "ABORTED", retry_after_ms: "soon" }), InferdError, "cannot be read")).code,
      "UNKNOWN",
    );
    equal((await client.infer("echo", { n: 1 })).outputs, { n: 1 });
  }),
  behaviour(
    "a payload over the server's limit is not sent",
    async (server, client) => {
      const error = await fails(
        client.infer("echo", { x: new Uint8Array(1001) }),
        InvalidArgument,
        "1001 bytes is over",
      );
      equal([error.reason, server.requests.length], ["PAYLOAD_TOO_LARGE", 0]);
      await client.infer("echo", { x: new Uint8Array(1000) });
    },
    () => new FakeServer(64, 1000),
  ),
  behaviour("what cannot be sent is refused here, naming the input or option", async (server, client) => {
    const cyclic: unknown[] = [];
    cyclic.push(cyclic);
    const cases: [any, string][] = [
      [{ x: new Date() }, "the input 'x': Date"],
      [
        { x: [new Float32Array(1)] },
        "the input 'x': Float32Array cannot be inside a value; make it an input of its own",
      ],
      [{ x: 1n << 70n }, "the input 'x'"],
      [{ x: () => 1 }, "the input 'x': function"],
      [{ x: [undefined] }, "the input 'x': undefined"],
      [{ x: "\ud800" }, "the input 'x': text with a lone surrogate"],
      [{ x: cyclic }, "nests more than 1024 deep"],
      [{ x: new Map([[1, 2]]) }, "keys must be text"],
      [{ x: new DataView(new ArrayBuffer(4)) }, "raw memory"],
      [{ x: new ArrayBuffer(4) }, "raw memory"],
      [{ ["n".repeat(129)]: new Uint8Array(1) }, "name is not 1 to 128 bytes"],
      [Object.fromEntries(Array.from({ length: 65 }, (_, i) => [`x${i}`, new Uint8Array(1)])), "has 65 tensors"],
    ];
    for (const [inputs, words] of cases) await fails(client.infer("echo", inputs), InvalidArgument, words);
    for (const model of ["", "m".repeat(65)])
      await fails(client.infer(model, {}), InvalidArgument, "'model' must be 1 to 64");
    const options: [any, string][] = [
      [{ priority: "urgent" }, "'priority' must be one of interactive, standard, batch"],
      [{ priority: 1 }, "'priority' must be text"],
      [{ supersede: "" }, "'supersede' must be 1 to 128 bytes"],
      [{ supersede: "k".repeat(129) }, "'supersede' must be 1 to 128 bytes"],
      [{ supersede: "\ud800" }, "'supersede' must be 1 to 128 bytes"],
      [{ supersede: 7 }, "'supersede' must be text"],
      [{ timeoutMs: NaN }, "'timeoutMs' must be a finite number"],
      [{ timeout_ms: 500 }, "'timeout_ms' is no option; there are timeoutMs, signal, rows, priority, supersede, timing"],
      [{ toString: undefined }, "'toString' is no option"],
    ];
    for (const [option, words] of options)
      await fails(client.infer("echo", {}, option as InferOptions), InvalidArgument, words);
    const misspelt = { timeout: 500 } as ClientOptions;
    await fails(() => server.client(misspelt), InvalidArgument, "'timeout' is no option; there are token, name,");
    equal(server.requests.length, 0);
  }),
  behaviour("a Tensor's dtype, shape and data must fit together", async () => {
    await fails(
      () => new Tensor("FP32", [2, 2], new Float32Array(3)),
      InvalidArgument,
      "shape [2, 2] has 4 elements, the data has 3",
    );
    await fails(() => new Tensor("FP32", [3], new Float64Array(3)), InvalidArgument, "must be a Float32Array");
    await fails(() => new Tensor("FLOAT" as Dtype, [3], new Float32Array(3)), InvalidArgument, "dtype must be one of");
    await fails(() => new Tensor("FP32", [-1], new Float32Array(3)), InvalidArgument, "whole numbers");
  }),
  behaviour(
    "a list where the model takes a tensor is told what to pass; another missing input is the server's sentence",
    async (server) => {
      const models = [
        {
          name: "refuse",
          inputs: [
            ["x", "FP32", [4]],
            ["y", "FP32", [4]],
          ],
          outputs: null,
          max_batch_size: 1,
        },
      ];
      server.opening = frame(Wire.WELCOME, {
        header: { version: 1 },
        payload: encode({ models }),
        hasValues: true,
        credits: 8,
      });
      server.models["refuse"] = () => {
        throw new Refusal({ code: "INVALID_ARGUMENT", reason: "INPUT_MISSING", message: "it needs the input 'y'" });
      };
      const client = server.client();
      const error = await fails(
        client.infer("refuse", { x: [1, 2, 3, 4] }),
        InvalidArgument,
        "pass a typed array or a Tensor, not a list",
      );
      equal([error.reason, error.requestId], ["TENSOR", 1]);
      await fails(client.infer("refuse", { x: new Float32Array(4) }), InvalidArgument, "it needs the input 'y'");
      client.close();
    },
  ),
  behaviour(
    "an error for the connection fails what was sent, and the next call goes to a new one",
    async (server, client) => {
      const calls = [1, 2].map(() => later(client.infer("held", {})));
      await server.received(2);
      server.say(
        frame(Wire.ERROR, { header: { code: "UNIMPLEMENTED", reason: "UNSUPPORTED_VERSION", message: "versions 2" } }),
      );
      const [first, second] = await Promise.all(calls.map((call) => fails(call, Unimplemented, "versions 2")));
      expect(first !== second, "each has an error of its own");
      server.drop();
      const next = client.infer("echo", { n: 1 });
      server.clock.advance(50);
      equal((await next).outputs, { n: 1 });
    },
  ),
];

const time: Behaviour[] = [
  behaviour("a timeout cancels at the server and forgets the late answer", async (server, client) => {
    const call = later(client.infer("held", {}, { timeoutMs: 50 }));
    await server.received(1);
    server.clock.advance(49.5);
    await turned();
    server.clock.advance(0.5);
    const error = await fails(call, DeadlineExceeded, "no answer within 50 ms; the request was on its way");
    equal([error.reason, error.requestId], ["TIMEOUT", 1]);
    await until(() => server.cancelled.length > 0, "a CANCEL");
    equal(server.cancelled, [1n]);
    server.release();
    equal((await client.infer("echo", { n: 1 })).outputs, { n: 1 });
    equal(server.connections, 1);
  }),
  behaviour("no time at all is a timeout, and nothing is sent", async (server, client) => {
    for (const timeoutMs of [0, -5])
      await fails(client.infer("echo", {}, { timeoutMs }), DeadlineExceeded, "waiting to be sent");
    await client.models();
    for (const timeoutMs of [0, -5]) await fails(client.infer("echo", {}, { timeoutMs }), DeadlineExceeded);
    equal(server.requests.length, 0);
  }),
  behaviour(
    "the deadline is what is left when the request is sent, rounded up",
    async (server, client) => {
      const held = later(client.infer("held", {}));
      await server.received(1);
      const waiting = client.infer("echo", {}, { timeoutMs: 250 });
      server.clock.advance(99.5);
      server.release();
      await Promise.all([held, waiting]);
      equal(server.requests[1]!.header["deadline_ms"], 151);
    },
    () => new FakeServer(1),
  ),
  behaviour(
    "a call whose time is up is not sent, also when its timer is late",
    async (server, client) => {
      const held = later(client.infer("held", {}));
      await server.received(1);
      const late = later(client.infer("echo", {}, { timeoutMs: 50 }));
      server.clock.now += 50;
      server.release();
      await fails(late, DeadlineExceeded, "waiting to be sent");
      await held;
      equal(server.requests.length, 1);
    },
    () => new FakeServer(1),
  ),
  behaviour("a timeout longer than a timer can be is a long timeout", async (server, client) => {
    const call = later(client.infer("held", {}, { timeoutMs: 1e12 }));
    await server.received(1);
    server.release();
    await call;
  }),
  behaviour("a server that never greets is given up, and calls wait for one that does", async (server) => {
    server.opening = new Uint8Array(0);
    const states: string[] = [];
    const client = server.client({ connectTimeoutMs: 100, timeoutMs: 300 });
    client.onState = (state) => states.push(state);
    const call = later(client.infer("echo", {}));
    await until(() => server.hellos.length > 0, "a HELLO");
    for (let i = 0; i < 10; i++) {
      server.clock.advance(30);
      await turned();
    }
    const error = await fails(call, DeadlineExceeded, "waiting for a connection (cannot connect to inferd://there:1: no ");
    expect(
      error.cause instanceof Unavailable && error.cause.message.includes("no WELCOME within 100 ms"),
      String(error.cause),
    );
    equal(states, []);
    client.close();
    equal(states, ["closed"]);
  }),
  behaviour("roundTripMs is what the caller waited", async (server, client) => {
    await client.models();
    const call = client.infer("held", {});
    await server.received(1);
    server.clock.advance(12.5);
    server.release();
    equal((await call).roundTripMs, 12.5);
  }),
];

const many: Behaviour[] = [
  behaviour("answers come in any order", async (server, client) => {
    const slow = client.infer("held", { n: -1 });
    await server.received(1);
    for (let n = 0; n < 20; n++) equal((await client.infer("echo", { n })).outputs, { n });
    server.release();
    equal((await slow).outputs, { n: -1 });
    equal(server.connections, 1);
  }),
  behaviour("many callers share a connection, each with its own answers", async (server, client) => {
    await Promise.all(
      Array.from({ length: 32 }, async (_, caller) => {
        for (let n = 0; n < 15; n++) {
          const x = new Int32Array(50 * (caller + 1)).fill(n);
          const { outputs } = await client.infer("double", { x });
          equal(
            (outputs["y"] as Tensor).data,
            x.map((item) => 2 * item),
          );
        }
      }),
    );
    equal([server.connections, server.requests.length], [1, 480]);
  }),
  behaviour(
    "with a window of one the server never sees two requests at a time",
    async (server, client) => {
      let inside = 0;
      let worst = 0;
      server.models["count"] = async (inputs) => {
        worst = Math.max(worst, ++inside);
        await turned();
        inside--;
        return inputs;
      };
      await Promise.all(Array.from({ length: 16 }, (_, n) => client.infer("count", { n })));
      equal([server.requests.length, worst, server.connections], [16, 1, 1]);
    },
    () => new FakeServer(1),
  ),
  behaviour(
    "waiting for credit counts against the caller's time, a larger window ends it, STATUS needs none",
    async (server, client) => {
      const first = client.infer("held", { n: 1 });
      await server.received(1);
      const late = later(client.infer("echo", {}, { timeoutMs: 30 }));
      server.clock.advance(30);
      await fails(late, DeadlineExceeded, "waiting to be sent");
      equal(await client.status(), { queued: 3 });
      const waiting = client.infer("echo", { n: 2 });
      server.grant(2);
      equal((await waiting).outputs, { n: 2 });
      server.release();
      equal((await first).outputs, { n: 1 });
      equal([server.requests.length, server.cancelled.length], [2, 0]);
    },
    () => new FakeServer(1),
  ),
  behaviour("while the link is full calls wait, and go in their order when it is not", async (server, client) => {
    await client.models();
    server.congested = true;
    const calls = [1, 2, 3].map((n) => client.infer("echo", { n }));
    await turned();
    equal(server.requests.length, 0);
    server.uncongested();
    equal(
      (await Promise.all(calls)).map(({ outputs }) => outputs["n"]),
      [1, 2, 3],
    );
    equal(
      server.requests.map(({ id }) => id),
      [1n, 2n, 3n],
    );
  }),
];

const options: Behaviour[] = [
  behaviour(
    "the latest call with a key wins before it is sent",
    async (server, client) => {
      const first = client.infer("held", { n: 0 });
      await server.received(1);
      const other = client.infer("echo", { n: 100 }, { supersede: "other" });
      const calls = Array.from({ length: 11 }, (_, i) => later(client.infer("echo", { n: i + 1 }, { supersede: "k" })));
      for (const call of calls.slice(0, -1))
        await fails(call, Superseded, "a newer request with the same supersede key");
      server.release();
      equal((await first).outputs, { n: 0 });
      equal((await calls.at(-1)!).outputs, { n: 11 });
      equal((await other).outputs, { n: 100 });
      equal(
        server.requests.map(({ header }) => header["supersede"]),
        [undefined, "other", "k"],
      );
      equal(server.cancelled, []);
    },
    () => new FakeServer(1),
  ),
  behaviour("the latest call wins also while there is no connection", async (server, client) => {
    server.up = false;
    server.drop();
    const older = later(client.infer("echo", { n: 1 }, { supersede: "k" }));
    const newer = client.infer("echo", { n: 2 }, { supersede: "k" });
    await fails(older, Superseded);
    server.up = true;
    await reconnected(server, client);
    equal((await newer).outputs, { n: 2 });
  }),
  behaviour("one that was sent is the server's to supersede", async (server, client) => {
    const older = client.infer("held", { n: 1 }, { supersede: "k" });
    await server.received(1);
    equal((await client.infer("echo", { n: 2 }, { supersede: "k" })).outputs, { n: 2 });
    server.release();
    equal((await older).outputs, { n: 1 });
  }),
  behaviour("the timeline comes on request, beside the outputs", async (server, client) => {
    const timed = await client.infer("echo", { timing: "mine" }, { timing: true });
    equal(timed.outputs, { timing: "mine" });
    equal(timed.timing, {
      queuedMs: 0,
      computeMs: 1.5,
      totalMs: 2,
      batchId: 1,
      batchRows: 1,
      padded: 0,
      released: "idle",
    });
    equal((await client.infer("echo", {})).timing, undefined);
    equal(
      server.requests.map(({ header }) => header["timing"]),
      [true, undefined],
    );
  }),
  behaviour("a call's class and key travel with it; the usual class is not said", async (server, client) => {
    await client.infer("echo", {}, { priority: "standard" });
    await client.infer("echo", {}, { priority: "batch", supersede: "k" });
    await client.infer("echo", {}, { priority: "interactive" });
    equal(
      server.requests.map(({ header }) => header["priority"]),
      [undefined, "batch", "interactive"],
    );
    equal(server.requests[1]!.header["supersede"], "k");
  }),
  behaviour("aborting cancels at the server and rejects with the signal's reason", async (server, client) => {
    const controller = new AbortController();
    const reason = new Error("the user typed on");
    const call = later(client.infer("held", {}, { signal: controller.signal }));
    await server.received(1);
    controller.abort(reason);
    equal(await fails(call, Error), reason);
    await until(() => server.cancelled.length > 0, "a CANCEL");
    equal(server.cancelled, [1n]);
    const name = await client.infer("echo", {}, { signal: AbortSignal.abort() }).catch((error: Error) => error.name);
    equal([name, server.requests.length], ["AbortError", 1]);
  }),
  behaviour(
    "aborting before it was sent tells nobody",
    async (server, client) => {
      const first = client.infer("held", {});
      await server.received(1);
      const controller = new AbortController();
      const call = later(client.infer("echo", { n: 2 }, { signal: controller.signal }));
      controller.abort(new Error("no longer"));
      await fails(call, Error, "no longer");
      server.release();
      await first;
      await client.status();
      equal([server.requests.length, server.cancelled.length], [1, 0]);
    },
    () => new FakeServer(1),
  ),
  behaviour("aborting after the answer changes nothing", async (server, client) => {
    const controller = new AbortController();
    equal((await client.infer("echo", { n: 1 }, { signal: controller.signal })).outputs, { n: 1 });
    controller.abort();
    await client.status();
    equal(server.cancelled, []);
  }),
];

/** What a server that is leaving answers to what comes then. */
const LEAVING = new Refusal({
  code: "UNAVAILABLE",
  reason: "DRAINING",
  message: "the server is going away",
  retryable: true,
});

/** Lets time pass until the client has a connection. */
async function reconnected(server: FakeServer, client: Client): Promise<void> {
  await until(() => {
    server.clock.advance(10);
    return client.state === "open";
  }, "a connection");
}

const connection: Behaviour[] = [
  behaviour("a PING is answered with its id, be it as large as an id can be", async (server, client) => {
    await client.models();
    server.say(frame(Wire.PING, { id: 2n ** 64n - 1n }));
    server.say(frame(Wire.PING));
    await until(() => server.pongs.length === 2, "two PONGs");
    equal(server.pongs, [2n ** 64n - 1n, 0n]);
  }),
  behaviour(
    "after GOAWAY what is in flight is finished, and what comes after goes to a new connection",
    async (server, client) => {
      const old = client.infer("held", { n: 1 });
      await server.received(1);
      server.goaway();
      server.goaway();
      const next = client.infer("echo", { n: 2 });
      await reconnected(server, client);
      equal((await next).outputs, { n: 2 });
      equal([server.connections, server.open], [2, 2]);
      server.release();
      equal((await old).outputs, { n: 1 });
      await until(() => server.open === 1, "the old connection is closed");
      equal((await client.infer("echo", { n: 4 })).outputs, { n: 4 });
    },
  ),
  behaviour(
    "GOAWAY moves those that wait for credit",
    async (server, client) => {
      const first = client.infer("held", { n: 1 });
      await server.received(1);
      const waiting = Array.from({ length: 5 }, (_, n) => client.infer("echo", { n }));
      server.goaway();
      await reconnected(server, client);
      equal(
        (await Promise.all(waiting)).map(({ outputs }) => outputs["n"]),
        [0, 1, 2, 3, 4],
      );
      server.release();
      await first;
    },
    () => new FakeServer(1),
  ),
  behaviour("a call that crosses GOAWAY goes to the next connection unnoticed", async (server, client) => {
    server.models["left"] = (inputs) => {
      if (server.connections === 1) throw LEAVING;
      return inputs;
    };
    const calls = [1, 2, 3].map((n) => client.infer("left", { n }));
    await server.received(3);
    await until(() => client.state === "connecting", "no more calls for the server that is leaving");
    calls.push(client.infer("left", { n: 4 }));
    await reconnected(server, client);
    equal(
      (await Promise.all(calls)).map(({ outputs }) => outputs["n"]),
      [1, 2, 3, 4],
    );
    equal(
      server.requests.map((request) => unpackData(request)["n"]),
      [1, 2, 3, 1, 2, 3, 4],
      "once more each, and in their order",
    );
    equal([server.connections, server.open], [2, 1]);
  }),
  behaviour("so does a call that a server which leaves has not answered when it closes", async (server, client) => {
    const call = client.infer("held", { n: 1 });
    await server.received(1);
    server.goaway();
    server.drop();
    await reconnected(server, client);
    await server.received(2);
    server.release();
    equal((await call).outputs, { n: 1 });
  }),
  behaviour("a call that is moved has the time that it had, and can still be aborted", async (server, client) => {
    const controller = new AbortController();
    const options = [{ timeoutMs: 300 }, { signal: controller.signal }];
    const calls = options.map((each) => later(client.infer("held", {}, each)));
    await server.received(2);
    server.up = false;
    server.clock.advance(200);
    server.goaway();
    server.drop();
    controller.abort(new Error("no longer"));
    await fails(calls[1]!, Error, "no longer");
    server.clock.advance(99);
    await turned();
    server.clock.advance(1);
    await fails(calls[0]!, DeadlineExceeded, "within 300 ms; the request was waiting for a connection");
  }),
  behaviour("of the calls with a key that are moved the newest goes on", async (server, client) => {
    await client.models();
    const calls = [1, 2, 3].map((n) => later(client.infer("held", { n }, { supersede: "k" })));
    await server.received(3);
    server.goaway();
    const newest = client.infer("echo", { n: 4 }, { supersede: "k" });
    server.drop();
    for (const call of calls) await fails(call, Superseded);
    await reconnected(server, client);
    equal((await newest).outputs, { n: 4 });
    equal(server.requests.length, 4);
  }),
  behaviour("a call that is moved does not take the place of a newer one that was sent", async (server, client) => {
    await client.status();
    const older = later(client.infer("held", { n: 1 }, { supersede: "k" })); // with the id 2
    await server.received(1);
    server.goaway();
    await reconnected(server, client);
    const newer = client.infer("held", { n: 2 }, { supersede: "k" }); // with the id 1: what is said next is not for it
    await server.received(2);
    server.say(frame(Wire.ERROR, { id: 2n, header: LEAVING.header }));
    await fails(older, Superseded);
    server.release();
    equal((await newer).outputs, { n: 2 });
    equal(server.requests.length, 2);
  }),
  behaviour("aborting in onState ends a call that is just being moved", async (server, client) => {
    server.models["left"] = () => {
      throw LEAVING;
    };
    const controller = new AbortController();
    client.onState = (state) => state === "connecting" && controller.abort(new Error("no longer"));
    await client.models();
    await fails(client.infer("left", {}, { signal: controller.signal }), Error, "no longer");
    client.onState = undefined;
    await reconnected(server, client);
    await client.status();
    equal(server.requests.length, 1);
  }),
  behaviour("closing the client in onState ends the calls that are just being moved", async (server, client) => {
    server.models["left"] = () => {
      throw LEAVING;
    };
    client.onState = (state) => state === "connecting" && client.close();
    await client.models();
    await fails(client.infer("left", {}), Cancelled, "closed");
  }),
  behaviour("a server that sends everybody away is not stormed", async (server, client) => {
    server.random = 0.999;
    await client.models();
    server.models["echo"] = (inputs) => inputs;
    const call = later(client.infer("held", {}));
    await server.received(1);
    for (let i = 0; i < 400; i++) {
      server.goaway();
      server.clock.advance(10);
      await turned();
    }
    expect(server.connections < 10, `${server.connections} connections in 4 s`);
    server.release();
    await call;
  }),
  behaviour("a lost connection fails what was sent, retryably, and is made again", async (server, client) => {
    const calls = Array.from({ length: 5 }, (_, n) => later(client.infer("held", { n })));
    await server.received(5);
    equal(client.state, "open");
    const states: string[] = [];
    client.onState = (state) => states.push(state);
    server.drop();
    for (const call of calls) {
      const error = await fails(call, Unavailable, "inferd://there:1 was lost before the answer");
      equal([error.reason, error.retryable, error.requestId > 0], ["CONNECTION_LOST", true, true]);
    }
    equal(client.state, "connecting");
    await reconnected(server, client);
    equal((await client.infer("echo", { n: 1 })).outputs, { n: 1 });
    equal([server.connections, states], [2, ["connecting", "open"]]);
  }),
  behaviour("a connection that died without a word is left once a call has timed out on it", async (server, client) => {
    await client.models();
    server.freeze();
    const call = later(client.infer("echo", { n: 1 }, { timeoutMs: 22_000 }));
    server.clock.advance(22_000);
    await fails(call, DeadlineExceeded, "on its way");
    equal([client.state, server.open], ["connecting", 0]);
    const next = client.infer("echo", { n: 2 });
    await reconnected(server, client);
    equal((await next).outputs, { n: 2 });
    equal(server.connections, 2);
  }),
  behaviour(
    "a connection that died with all its credits is left once silence has lasted 20 s, however short the calls are",
    async (server, client) => {
      await client.models();
      server.freeze();
      for (const state of ["open", "open", "open", "connecting"]) {
        const call = later(client.infer("echo", {}, { timeoutMs: 5_000 }));
        server.clock.advance(5_000);
        await fails(call, DeadlineExceeded);
        equal(client.state, state);
      }
      await reconnected(server, client);
      equal((await client.infer("echo", { n: 2 })).outputs, { n: 2 });
    },
    () => new FakeServer(1),
  ),
  behaviour("a slow model's answer is still taken after silence has sent new calls on", async (server, client) => {
    const slow = client.infer("held", { n: 1 });
    await server.received(1);
    const call = later(client.infer("held", {}, { timeoutMs: 22_000 }));
    await server.received(2);
    server.clock.advance(22_000);
    await fails(call, DeadlineExceeded);
    await reconnected(server, client);
    equal((await client.infer("echo", { n: 2 })).outputs, { n: 2 });
    equal([server.connections, server.open], [2, 2]);
    server.release();
    equal((await slow).outputs, { n: 1 });
    await until(() => server.open === 1, "the old connection is closed");
  }),
  behaviour(
    "calls that were not sent wait for the next connection, in their order",
    async (server, client) => {
      const sent = later(client.infer("held", {}));
      await server.received(1);
      const waiting = [1, 2].map((n) => client.infer("echo", { n }));
      server.drop();
      await fails(sent, Unavailable);
      await reconnected(server, client);
      equal(
        (await Promise.all(waiting)).map(({ outputs }) => outputs["n"]),
        [1, 2],
      );
    },
    () => new FakeServer(1),
  ),
  behaviour(
    "it connects again after random times that double from 50 ms to 2 s, and begins anew after a good connection",
    async (server, client) => {
      await client.models();
      server.random = 0.999999;
      const waits: number[] = [];
      const measure = async () => {
        const before = server.attempts;
        let waited = 0;
        while (server.attempts === before) {
          server.clock.advance(5);
          waited += 5;
          await turned();
        }
        waits.push(waited);
      };
      server.up = false;
      server.drop();
      for (let i = 0; i < 8; i++) await measure();
      equal(waits, [50, 100, 200, 400, 800, 1600, 2000, 2000]);
      server.up = true;
      await reconnected(server, client);
      server.clock.advance(2000);
      server.drop();
      await measure();
      equal(waits.at(-1), 50);
      server.random = 0;
      server.drop();
      server.clock.advance(0);
      await until(() => client.state === "open", "at once, for random() may say so");
    },
  ),
  behaviour("a server that is not there when the client begins is waited for", async (server) => {
    server.up = false;
    const client = server.client();
    const call = client.infer("echo", { n: 1 });
    await turned();
    server.up = true;
    await reconnected(server, client);
    equal((await call).outputs, { n: 1 });
    client.close();
  }),
  behaviour("a call that could not be sent says why", async (server) => {
    server.up = false;
    const client = server.client({ timeoutMs: 400 });
    const call = later(client.infer("echo", {}));
    for (let i = 0; i < 8; i++) {
      await turned();
      server.clock.advance(50);
    }
    const says = "waiting for a connection (cannot connect to inferd://there:1: connection refused)";
    const { cause } = await fails(call, DeadlineExceeded, says);
    expect(cause instanceof Unavailable, String(cause));
    equal([cause.reason, cause.message], ["CONNECT_FAILED", "cannot connect to inferd://there:1: connection refused"]);
    client.close();
  }),
  behaviour("without reconnect one lost connection is the end", async (server) => {
    const client = server.client({ reconnect: false });
    const sent = later(client.infer("held", {}));
    await server.received(1);
    server.drop();
    await fails(sent, Unavailable);
    equal(client.state, "closed");
    await fails(client.infer("echo", {}), Unavailable, "was lost");
    server.up = false;
    const never = server.client({ reconnect: false });
    const error = await fails(never.infer("echo", {}), Unavailable, "connection refused");
    equal(error.reason, "CONNECT_FAILED");
  }),
  behaviour("a token that is refused is not tried again", async (server) => {
    server.opening = frame(Wire.ERROR, {
      header: { code: "UNAUTHENTICATED", reason: "TOKEN", message: "the token is not known here" },
    });
    const client = server.client({ token: "wrong-token-1234" });
    const error = await fails(client.infer("echo", {}), Unauthenticated, "not known here");
    equal([error.reason, error.retryable, client.state], ["TOKEN", false, "closed"]);
    await fails(client.infer("echo", {}), Unauthenticated);
    equal(server.attempts, 2); // one of them is the other client's
  }),
  behaviour("a server that is full for now is tried again", async (server) => {
    server.opening = frame(Wire.ERROR, {
      header: { code: "RESOURCE_EXHAUSTED", reason: "TOO_MANY_CONNECTIONS", message: "full", retryable: true },
    });
    const client = server.client();
    const call = client.infer("echo", { n: 1 });
    await until(() => server.hellos.length >= 2, "a HELLO that is refused");
    server.drop();
    server.opening = undefined;
    await reconnected(server, client);
    equal((await call).outputs, { n: 1 });
    client.close();
  }),
  behaviour("a server that says when to come back is left alone until then, or for a minute", async (server, other) => {
    other.close();
    await turned();
    for (const [saysMs, waitsMs] of [
      [5_000, 5_000],
      [1e300, 60_000],
    ]) {
      server.opening = frame(Wire.ERROR, {
        header: { code: "RESOURCE_EXHAUSTED", reason: "GUESSING", retryable: true, retry_after_ms: saysMs },
      });
      const attempts = server.attempts + 1;
      const client = server.client({ timeoutMs: 100_000 });
      const call = later(client.infer("echo", { n: 1 }));
      await until(() => server.attempts === attempts && server.open === 0, "a refusal");
      server.opening = undefined;
      server.clock.advance(waitsMs!);
      await turned();
      equal(server.attempts, attempts);
      server.clock.advance(50);
      equal((await call).outputs, { n: 1 });
      client.close();
    }
  }),
  behaviour("something else on the port is said to be that", async (server) => {
    server.opening = new TextEncoder().encode("HTTP/1.1 400 Bad Request\r\n\r\n");
    const client = server.client();
    await fails(
      client.infer("echo", {}),
      ProtocolError,
      "inferd://there:1: not an inferd frame (it must open with f1 6e 66); it looks like HTTP",
    );
    equal(client.state, "closed");
  }),
  behaviour("a WELCOME that makes no sense is the end", async (server) => {
    const openings: [Uint8Array, string][] = [
      [
        frame(Wire.WELCOME, { header: { version: 1 }, payload: encode({ models: "echo" }), hasValues: true }),
        "no list of models",
      ],
      [
        frame(Wire.WELCOME, { header: { version: 1 }, payload: encode({ models: ["echo"] }), hasValues: true }),
        "no list of models",
      ],
      [
        frame(Wire.WELCOME, { header: { version: 1 }, payload: Uint8Array.of(0xdf), hasValues: true }),
        "values segment cannot be read",
      ],
      [frame(Wire.WELCOME, { header: {} }), "names no version"],
      [frame(Wire.WELCOME, { header: { version: "1" } }), "WELCOME cannot be read"],
      [frame(Wire.WELCOME, { header: { version: 1, limits: { payload_bytes: -1 } } }), "WELCOME cannot be read"],
      [frame(Wire.RESULT, { id: 1n }), "does not send RESULT before WELCOME"],
    ];
    for (const [opening, words] of openings) {
      server.opening = opening;
      const client = server.client();
      await fails(client.infer("echo", {}), ProtocolError, words);
    }
  }),
  behaviour(
    "who waits when the client is closed is told at once, and afterwards it is of no use",
    async (server, client) => {
      const sent = Array.from({ length: 3 }, () => later(client.infer("held", {})));
      await server.received(2);
      client.close();
      for (const call of sent) await fails(call, Cancelled, "closed");
      await fails(client.infer("echo", {}), Cancelled, "this client was closed");
      equal(client.state, "closed");
      client.close();
    },
    () => new FakeServer(2),
  ),
  behaviour("who waits for a server that is leaving is told when the client is closed", async (server, client) => {
    const call = later(client.infer("held", {}));
    await server.received(1);
    server.goaway();
    client.close();
    await fails(call, Cancelled, "closed");
  }),
  behaviour("a bad URL or option is refused", async () => {
    for (const url of [
      "localhost",
      "http://localhost",
      "inferd://",
      "inferd://h:x",
      "inferd+unix://rel",
      "ws://h/#part",
      "inferd://h/path",
    ]) {
      await fails(() => new Client(url), ConfigError, "use ws://");
    }
    await fails(() => new Client(`inferd+unix:///${"x".repeat(107)}`), ConfigError, "at most 107 bytes");
    await fails(() => new Client("ws://h", { timeoutMs: NaN }), InvalidArgument, "'timeoutMs'");
    for (const connectTimeoutMs of [0, -1, NaN, Infinity]) {
      await fails(() => new Client("ws://h", { connectTimeoutMs }), InvalidArgument, "'connectTimeoutMs' must be");
    }
    await fails(() => new Client("ws://h", { token: 7 as never }), InvalidArgument, "'token' must be text");
    await fails(() => new Client("ws://h", { token: "" }), InvalidArgument, "'token' must be 1 to 1024 characters");
    await fails(
      () => new Client("ws://h", { name: "x".repeat(129) }),
      InvalidArgument,
      "'name' must be 1 to 128 characters",
    );
  }),
];

export const behaviours: Behaviour[] = [...data, ...errors, ...time, ...many, ...options, ...connection];
