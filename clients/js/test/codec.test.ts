/** Inputs to payloads and back: where tensors lie, what is copied, and integers that a number cannot hold. */

import assert from "node:assert/strict";
import { test } from "node:test";
import { decode } from "@msgpack/msgpack";
import { decodeOutputs, encodeRequest, headerOf, type Inputs } from "../src/codec.js";
import { Tensor } from "../src/index.js";
import { packMap, unpackMap } from "../src/msgpack.js";
import { tensorIn } from "../src/tensor.js";

function payloadOf(inputs: Inputs): Uint8Array {
  return new Uint8Array(Buffer.concat(encodeRequest("echo", inputs).pieces));
}

test("tensors lie at multiples of 64 with zeros between, values behind them; without values a tensor is the end", () => {
  const payload = payloadOf({ a: new Uint8Array(3).fill(7), v: 1, b: new Uint8Array(2).fill(9) });
  const expected = new Uint8Array(128 + 4);
  expected.fill(7, 0, 3).fill(9, 64, 66).set([0x81, 0xa1, 0x76, 1], 128);
  assert.deepEqual(payload, expected);
  assert.equal(payloadOf({ a: new Uint8Array(3) }).length, 3);
  assert.equal(payloadOf({ e: new Tensor("FP64", [0, 4], new Float64Array(0)), v: 1 }).length, 4);
  assert.equal(
    encodeRequest("echo", { a: new Uint8Array(3), e: new Tensor("FP32", [0], new Float32Array(0)) }).payloadBytes,
    64,
  );
  assert.equal(payloadOf({}).length, 0);
});

test("a tensor's memory is sent from where it lies", () => {
  const data = new Float32Array(1000);
  const [piece] = encodeRequest("echo", { x: data.subarray(10, 20) }).pieces;
  assert.equal(piece!.buffer, data.buffer);
  assert.deepEqual([piece!.byteOffset, piece!.byteLength], [40, 40]);
});

test("an output is a view of the payload where it may be one, and a copy where it may not", () => {
  const table = [{ name: "y", dtype: "FP32" as const, shape: [4], offset: 0, bytes: 16 }];
  for (const start of [0, 4, 8, 1, 2, 3]) {
    const memory = new Uint8Array(64);
    const payload = memory.subarray(start, start + 16);
    payload.set(new Uint8Array(Float32Array.of(1, 2, 3, 4).buffer));
    const { y } = decodeOutputs({ table, tensorEnd: 16, timing: undefined }, false, payload);
    assert.ok(y instanceof Tensor);
    assert.deepEqual([...y.data], [1, 2, 3, 4]);
    assert.equal(y.data.buffer === memory.buffer, start % 4 === 0);
  }
  assert.equal(
    tensorIn(new Uint8Array(0), { name: "e", dtype: "FP64", shape: [0, 3], offset: 64, bytes: 0 }).data.length,
    0,
  );
});

test("an output may have any name", () => {
  const row = { name: "__proto__", dtype: "UINT8" as const, shape: [1], offset: 0, bytes: 1 };
  const outputs = decodeOutputs({ table: [row], tensorEnd: 1, timing: undefined }, false, Uint8Array.of(5));
  assert.deepEqual(Object.keys(outputs), ["__proto__"]);
  assert.equal(Object.getPrototypeOf(outputs), Object.prototype);
});

test("an integer is a number where it can be one, and otherwise a bigint, both ways", () => {
  const { MAX_SAFE_INTEGER: max } = Number;
  const numbers = [
    0,
    127,
    128,
    255,
    65536,
    2 ** 31,
    2 ** 32 - 1,
    2 ** 32,
    max,
    -1,
    -33,
    -(2 ** 31),
    -(2 ** 31) - 1,
    -max,
    0.5,
    1e300,
    NaN,
    -Infinity,
  ];
  const bigints = [BigInt(max) + 1n, -BigInt(max) - 1n, 2n ** 64n - 1n, -(2n ** 63n)];
  const back = unpackMap(packMap({ numbers, bigints, small: 5n, nested: { deep: [7n] } }), 100, false);
  assert.deepEqual(back, { numbers, bigints, small: 5, nested: { deep: [7] } });
  for (const integer of [2 ** 32, -(2 ** 31) - 1]) {
    assert.equal(packMap({ n: integer })[3], integer > 0 ? 0xcf : 0xd3, "an integer on the wire, not a float");
  }
});

test("a Map and an object of any class that is plain are maps", () => {
  const values = { map: new Map([["a", new Map([["b", 1]])]]), bare: Object.assign(Object.create(null), { c: 2 }) };
  assert.deepEqual(decode(packMap(values)), { map: { a: { b: 1 } }, bare: { c: 2 } });
  class Point {
    x = 1;
  }
  assert.throws(() => packMap({ p: new Point() }), /Point cannot be inside a value/);
});

test("the largest header that passes the checks is under 16 KiB", () => {
  const shape = [...Array.from({ length: 11 }, () => 1), 128, 128, 128, 128, 0];
  const inputs = Object.fromEntries(
    Array.from({ length: 64 }, (_, i) => [
      String(i).padStart(128, "0"),
      new Tensor("UINT16", shape, new Uint16Array(0)),
    ]),
  );
  const request = encodeRequest("m".repeat(64), inputs, {
    supersede: "k".repeat(128),
    priority: "interactive",
    timing: true,
  });
  assert.ok(headerOf(request, 2 ** 50).length <= 13 * 1024);
});

test("equal requests have equal headers", () => {
  const header = (text: string) => headerOf(encodeRequest("echo", { text }, { supersede: "k" }), 250);
  assert.deepEqual(header("x"), header("y"));
});
