/** Hostile and unlucky bytes: what they cost, and that they end where they should. */

import assert from "node:assert/strict";
import { test } from "node:test";
import { encode } from "@msgpack/msgpack";
import { Decoder, type Frame } from "../src/decoder.js";
import { InferdError, ProtocolError } from "../src/errors.js";
import { unpackHeader } from "../src/messages.js";
import { unpackMap } from "../src/msgpack.js";
import { frame, Wire } from "./fake-server.js";

const WELCOME = frame(Wire.WELCOME, { header: { version: 1 } });

function open(wanted: (frame: Frame) => boolean = () => true): Decoder {
  const decoder = new Decoder(wanted);
  decoder.feed(WELCOME.slice());
  assert.equal(decoder.next()?.type, Wire.WELCOME);
  return decoder;
}

function prefix(type: number, headerBytes: number, payloadBytes: number): Uint8Array {
  const bytes = frame(type);
  const view = new DataView(bytes.buffer);
  view.setUint32(8, headerBytes, true);
  view.setUint32(12, payloadBytes, true);
  return bytes;
}

/** By how many bytes the array buffers and the heap are larger after `run`. */
function grown(run: () => void): number {
  const used = () => {
    const { arrayBuffers, heapUsed } = process.memoryUsage();
    return arrayBuffers + heapUsed;
  };
  const before = used();
  run();
  return used() - before;
}

test("a frame over the limits is refused from its prefix", () => {
  for (const [header, payload] of [
    [16385, 0],
    [0xffffffff, 0],
    [0, 64 * 2 ** 20 + 1],
    [0, 0xffffffff],
  ] as const) {
    const decoder = open();
    decoder.feed(prefix(Wire.RESULT, header, payload));
    assert.throws(() => decoder.next(), /over the limits/);
    decoder.feed(WELCOME.slice());
    assert.equal(decoder.next(), undefined, "nothing is taken afterwards");
  }
});

test("memory for a payload is set aside only when somebody waits for it", () => {
  const announced = 60_000_000;
  const head = frame(Wire.RESULT, { id: 7n, header: { outputs: [["y", "UINT8", [announced], 0]] } });
  new DataView(head.buffer).setUint32(12, announced, true);
  for (const wanted of [false, true]) {
    const decoder = open(() => wanted);
    const bytes = grown(() => {
      decoder.feed(head.slice());
      assert.equal(decoder.next(), undefined);
    });
    assert.equal(bytes >= announced, wanted, `${bytes} bytes`);
  }
});

test("a payload that nobody wants is read and forgotten, and the next frame is found", () => {
  for (const piece of [1000, 100_000, 1]) {
    const decoder = open(({ requestId }) => requestId === 2n);
    const payload = new Uint8Array(3000).fill(7);
    const header = { outputs: [["y", "UINT8", [3000], 0]] };
    const bytes = new Uint8Array([
      ...frame(Wire.RESULT, { id: 1n, header, payload }),
      ...frame(Wire.RESULT, { id: 2n, header, payload }),
    ]);
    const frames: Frame[] = [];
    for (let at = 0; at < bytes.length; at += piece) {
      decoder.feed(bytes.slice(at, at + piece));
      for (let next = decoder.next(); next !== undefined; next = decoder.next()) frames.push(next);
    }
    assert.deepEqual(
      frames.map(({ requestId, payload }) => [requestId, payload.length]),
      [
        [1n, 0],
        [2n, 3000],
      ],
    );
  }
});

test("a large payload in one chunk is not copied; a small one does not keep its chunk alive", () => {
  const decoder = open();
  const large = frame(Wire.RESULT, {
    id: 1n,
    header: { outputs: [["y", "UINT8", [100_000], 0]] },
    payload: new Uint8Array(100_000),
  });
  decoder.feed(large);
  assert.equal(decoder.next()!.payload.buffer, large.buffer);
  const small = frame(Wire.STATUS, { id: 2n, payload: encode({ queued: 3 }), hasValues: true });
  const chunk = new Uint8Array(65536);
  chunk.set(small);
  decoder.feed(chunk.subarray(0, small.length));
  const { payload } = decoder.next()!;
  assert.notEqual(payload.buffer, chunk.buffer);
  assert.deepEqual([...payload], [...encode({ queued: 3 })]);
});

test("lists that announce each other, or millions of entries, cost nothing", () => {
  // Lists within lists, each of which announces 3,722,304,989 entries.
  const nested = new Uint8Array(60_000).fill(0xdd);
  nested.set([0x81, 0xa1, 0x78]);
  assert.ok(grown(() => assert.throws(() => unpackMap(nested, 2 ** 32, false), ProtocolError)) < 8 * 2 ** 20);
  const lies = [
    [0xdf, 0xff, 0xff, 0xff, 0xff],
    [0x81, 0xa1, 0x78, 0xdd, 0x7f, 0xff, 0xff, 0xff],
    [0x81, 0xa1, 0x78, 0xdd, 0x00, 0x0f, 0xff, 0xff, 0x01],
    [0x81, 0xa1, 0x78, 0xdb, 0xff, 0xff, 0xff, 0xff],
    [0x81, 0xa1, 0x78, 0xc6, 0x7f, 0xff, 0xff, 0xff],
  ];
  for (const lie of lies) assert.throws(() => unpackMap(Uint8Array.from(lie), 2 ** 32, false), ProtocolError);
});

test("what is no map of text, or more than one, is refused", () => {
  const cases: [number[], RegExp][] = [
    [[], /cut short/],
    [[0x91, 0x01], /not a msgpack map/],
    [[0x80, 0x80], /follows/],
    [[0x81, 0x01, 0x01], /not text/],
    [[0x81, 0xc4, 0x01, 0x78, 0x01], /not text/],
    [[0x81, 0xa1, 0x78, 0x81, 0x01, 0x01], /not text/],
    [[0x81, 0xa1, 0x78, 0xc1], /extension|not msgpack/],
    [[0x81, 0xa1, 0x78, 0xd4, 0x01, 0x00], /extension/],
    [[0x81, 0xa1, 0x78, 0xc7, 0x00, 0xff], /extension/],
    [[0x81, 0xa1, 0x78, 0xd6, 0xff, 0, 0, 0, 0], /extension/],
    [[0x81, 0xa1, 0x78], /cut short/],
    [[0x81, 0xa1, 0x78, 0xcd, 0x01], /cut short/],
    [[0x81, 0xa9, ...Buffer.from("__proto__"), 0x01], /cannot be used|__proto__|not valid/],
    [[0x81, 0xa1, 0x78, 0x81, 0xc4, 0x09, ...Buffer.from("__proto__"), 0x01], /cannot be used/],
  ];
  for (const [bytes, problem] of cases)
    assert.throws(
      () => unpackMap(Uint8Array.from(bytes), 100, false),
      (error) => error instanceof ProtocolError && problem.test(error.message),
      String(bytes),
    );
  const deep = (levels: number) => Uint8Array.of(0x81, 0xa1, 0x78, ...new Uint8Array(levels - 2).fill(0x91), 0x90);
  assert.ok(unpackMap(deep(1024), 1e6, false));
  assert.throws(() => unpackMap(deep(1025), 1e6, false), /deep/);
  assert.deepEqual(
    unpackMap(Uint8Array.of(0x81, 0xa1, 0x78, 0x81, 0xc4, 0x01, 0x79, 0x01), 100, false),
    { x: { y: 1 } },
    "a binary key further in",
  );
});

test("a header has each key once, and at most 128 entries in one place", () => {
  assert.throws(() => unpackHeader(Uint8Array.of(0x82, 0xa1, 0x78, 1, 0xa1, 0x78, 2)), /twice/);
  assert.deepEqual(unpackMap(Uint8Array.of(0x82, 0xa1, 0x78, 1, 0xa1, 0x78, 2), 100, false), { x: 2 });
  assert.throws(() => unpackHeader(encode({ x: Array.from({ length: 129 }, () => 0) })), /129 entries/);
  assert.equal((unpackHeader(encode({ x: Array.from({ length: 128 }, () => 0) }))["x"] as []).length, 128);
  assert.deepEqual(unpackHeader(new Uint8Array(0)), {});
});

test("a result whose table lies, or does not fit its payload, fails alone", () => {
  const lies: [unknown, number][] = [
    [[["y", "UINT8", [10], 0]], 11],
    [[["y", "UINT8", [10], 0]], 9],
    [[["y", "FLOAT", [1], 0]], 4],
    [[["y", "UINT8", [1], 4]], 5],
    [
      [
        ["a", "UINT8", [65], 0],
        ["b", "UINT8", [1], 64],
      ],
      65,
    ],
    [
      [
        ["a", "UINT8", [1], 0],
        ["a", "UINT8", [1], 64],
      ],
      65,
    ],
    [[["y", "UINT8", [2 ** 40, 2 ** 40, 2 ** 40], 0]], 0],
    [[["y", "UINT8", [2 ** 40, 2 ** 40, 0], 0]], 0],
    [[["y", "UINT8", [-1], 0]], 0],
    [[["y", "UINT8", [1.5], 0]], 1],
    [[["y", "UINT8", Array.from({ length: 17 }, () => 1), 0]], 1],
    [[["", "UINT8", [1], 0]], 1],
    [[["y", "UINT8", [1]]], 1],
    ["y", 0],
    [Array.from({ length: 65 }, (_, i) => [`x${i}`, "UINT8", [0], 0]), 0],
  ];
  for (const [outputs, payloadBytes] of lies) {
    const decoder = open();
    decoder.feed(frame(Wire.RESULT, { id: 1n, header: { outputs }, payload: new Uint8Array(payloadBytes) }));
    const got = decoder.next()!;
    assert.ok(got.error instanceof InferdError && !(got.error instanceof ProtocolError), JSON.stringify(outputs));
    assert.equal(got.payload.length, 0);
    decoder.feed(frame(Wire.PING, { id: 5n }));
    assert.equal(decoder.next()!.requestId, 5n);
  }
});

test("random changes to a conversation end in frames or one ProtocolError, never in anything else", () => {
  let seed = 7;
  const random = (below: number) => (seed = (seed * 1103515245 + 12345) % 2 ** 31) % below;
  const payload = new Uint8Array([...new Uint8Array(64), ...encode({ text: "x", list: [1, 2, { a: null }] })]);
  const good = new Uint8Array([
    ...frame(Wire.RESULT, { id: 1n, header: { outputs: [["y", "UINT8", [3], 0]] }, payload, hasValues: true }),
    ...frame(Wire.ERROR, { id: 2n, header: { code: "INTERNAL", retry_after_ms: 1.5 } }),
    ...frame(Wire.STATUS, { id: 3n, payload: encode({ a: 1 }), hasValues: true }),
  ]);
  for (let round = 0; round < 20_000; round++) {
    const bytes = good.slice();
    for (let changes = 1 + random(4); changes > 0; changes--) bytes[random(bytes.length)] = random(256);
    const decoder = open();
    decoder.feed(bytes);
    try {
      while (decoder.next() !== undefined);
    } catch (error) {
      assert.ok(error instanceof ProtocolError, String(error));
      assert.equal(decoder.next(), undefined);
    }
  }
});
