/**
 * msgpack as the protocol uses it: text keys, no extension types, bounded depth, 64-bit integers kept whole.
 *
 * A few bytes of msgpack can announce a list of four thousand million entries, for which a decoder sets memory aside.
 * So a segment is first walked without building anything. What passes has as many entries as it announces, each of at
 * least one byte, and the decoder's memory is bounded by the segment's length.
 */

import { Decoder, Encoder } from "@msgpack/msgpack";
import { ProtocolError } from "./errors.js";

/** What is no tensor. Integers beyond 2^53 are bigint, bytes are Uint8Array. */
export type Value = null | boolean | number | bigint | string | Uint8Array | Value[] | { [key: string]: Value };
export type ValueMap = { [key: string]: Value };

const MAX_DEPTH = 1024;
/** In a header no list or map, at any depth, has more entries. In a values segment its length is the limit. */
export const MAX_HEADER_ENTRIES = 128;

const decoder = new Decoder({ useBigInt64: true, mapKeyConverter: keyText });
const encoder = new Encoder({ useBigInt64: true, maxDepth: MAX_DEPTH });
const utf8 = new TextDecoder();

function keyText(key: unknown): string {
  const text = key instanceof Uint8Array ? utf8.decode(key) : key;
  if (typeof text !== "string" || text === "__proto__")
    throw new ProtocolError("a msgpack map has a key that cannot be used");
  return text;
}

/**
 * The map in `bytes`, each list and map of at most `maxEntries`. With `uniqueNames` its own keys must differ.
 * Throws ProtocolError for anything but one map with text names and nothing behind it.
 */
export function unpackMap(bytes: Uint8Array, maxEntries: number, uniqueNames: boolean): ValueMap {
  const { wide, entries } = checkMap(bytes, maxEntries);
  let map: ValueMap;
  try {
    map = decoder.decode(bytes) as ValueMap;
  } catch (error) {
    throw error instanceof ProtocolError ? error : new ProtocolError("it is not valid msgpack", { cause: error });
  }
  if (uniqueNames && Object.keys(map).length !== entries) throw new ProtocolError("a key is there twice");
  return wide ? (narrowed(map) as ValueMap) : map;
}

/** 64-bit integers that fit a number become one, in place. */
function narrowed(value: Value): Value {
  if (typeof value === "bigint") {
    return value >= Number.MIN_SAFE_INTEGER && value <= Number.MAX_SAFE_INTEGER ? Number(value) : value;
  }
  if (Array.isArray(value)) {
    value.forEach((item, i) => (value[i] = narrowed(item)));
  } else if (typeof value === "object" && value !== null && !(value instanceof Uint8Array)) {
    for (const key of Object.keys(value)) value[key] = narrowed(value[key] as Value);
  }
  return value;
}

interface Checked {
  /** How many entries the outermost map has. */
  entries: number;
  /** Whether a 64-bit integer occurs. */
  wide: boolean;
}

interface Item {
  /** The bytes from its first one to the next item's, without what is in a list or map. */
  bytes: number;
  /** The items inside: a map's entries count twice. */
  children: number;
  kind: "map" | "list" | "text" | "binary" | "wide" | "other";
}

/** Walks the items of `bytes`, which must be one map with text names, and builds nothing. Throws ProtocolError. */
function checkMap(bytes: Uint8Array, maxEntries: number): Checked {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const left: number[] = []; // by depth: the items of this list or map that are still to come
  const inMap: boolean[] = [];
  let at = 0;
  let entries = -1;
  let wide = false;
  do {
    const depth = left.length;
    const item = itemAt(view, at);
    at += item.bytes;
    if (at > bytes.length) throw new ProtocolError("it is cut short");
    if (depth === 0) {
      if (item.kind !== "map") throw new ProtocolError("it is not a msgpack map");
      entries = item.children / 2;
    } else {
      const isKey = inMap[depth - 1] && left[depth - 1]! % 2 === 0;
      if (isKey && item.kind !== "text" && (depth === 1 || item.kind !== "binary")) {
        throw new ProtocolError("it has a key that is not text");
      }
      left[depth - 1]!--;
    }
    wide ||= item.kind === "wide";
    if (item.kind === "map" || item.kind === "list") {
      const count = item.kind === "map" ? item.children / 2 : item.children;
      if (count > maxEntries)
        throw new ProtocolError(`it has ${count} entries in one place, at most ${maxEntries} are allowed`);
      if (depth >= MAX_DEPTH) throw new ProtocolError(`it nests more than ${MAX_DEPTH} deep`);
      left.push(item.children);
      inMap.push(item.kind === "map");
    }
    while (left.length > 0 && left[left.length - 1] === 0) {
      left.pop();
      inMap.pop();
    }
  } while (left.length > 0);
  if (at !== bytes.length) throw new ProtocolError("something follows the msgpack map");
  return { entries, wide };
}

function itemAt(view: DataView, at: number): Item {
  const room = view.byteLength - at;
  if (room < 1) throw new ProtocolError("it is cut short");
  const first = view.getUint8(at);
  if (first <= 0x7f || first >= 0xe0 || first === 0xc0 || first === 0xc2 || first === 0xc3) return leaf(1);
  if (first <= 0x8f) return { bytes: 1, children: 2 * (first & 0x0f), kind: "map" };
  if (first <= 0x9f) return { bytes: 1, children: first & 0x0f, kind: "list" };
  if (first <= 0xbf) return { bytes: 1 + (first & 0x1f), children: 0, kind: "text" };
  const number = FIXED_BYTES[first];
  if (number !== undefined) return { ...leaf(number), kind: first === 0xcf || first === 0xd3 ? "wide" : "other" };
  const sized = SIZED[first];
  if (sized === undefined) throw new ProtocolError("it has an extension type, or a byte that is not msgpack");
  const [kind, width] = sized;
  if (room < 1 + width) throw new ProtocolError("it is cut short");
  const count = width === 1 ? view.getUint8(at + 1) : width === 2 ? view.getUint16(at + 1) : view.getUint32(at + 1);
  if (kind === "text" || kind === "binary") return { bytes: 1 + width + count, children: 0, kind };
  return { bytes: 1 + width, children: kind === "map" ? 2 * count : count, kind };
}

function leaf(bytes: number): Item {
  return { bytes, children: 0, kind: "other" };
}

// By first byte: the whole length of numbers, and the kind and width of the count of what has a length.
const FIXED_BYTES: Readonly<Record<number, number>> = {
  0xca: 5,
  0xcb: 9,
  0xcc: 2,
  0xcd: 3,
  0xce: 5,
  0xcf: 9,
  0xd0: 2,
  0xd1: 3,
  0xd2: 5,
  0xd3: 9,
};
const SIZED: Readonly<Record<number, readonly ["text" | "binary" | "list" | "map", 1 | 2 | 4]>> = {
  0xc4: ["binary", 1],
  0xc5: ["binary", 2],
  0xc6: ["binary", 4],
  0xd9: ["text", 1],
  0xda: ["text", 2],
  0xdb: ["text", 4],
  0xdc: ["list", 2],
  0xdd: ["list", 4],
  0xde: ["map", 2],
  0xdf: ["map", 4],
};

/** The bytes of a map, its entries that are undefined left out. Throws TypeError for what msgpack cannot express. */
export function packMap(map: Readonly<Record<string, unknown>>): Uint8Array {
  return encoder.encode(expressible(map, 1));
}

/**
 * `value` as the encoder takes it. The encoder would write what this refuses or changes as something else: a Date as an
 * extension, a Map as an empty map, a large whole number as a float.
 */
function expressible(value: unknown, depth: number): unknown {
  switch (typeof value) {
    case "boolean":
      return value;
    case "string":
      if (LONE_SURROGATE.test(value)) throw new TypeError("text with a lone surrogate cannot be sent");
      return value;
    case "number":
      return Number.isSafeInteger(value) && (value > 0xffff_ffff || value < -0x8000_0000) ? BigInt(value) : value;
    case "bigint":
      if (value < -(2n ** 63n) || value >= 2n ** 64n) throw new TypeError(`the integer ${value} has more than 64 bits`);
      return value;
    case "object":
      break;
    default:
      throw new TypeError(`${typeof value} cannot be sent`);
  }
  if (value === null || value instanceof Uint8Array) return value;
  if (depth > MAX_DEPTH) throw new TypeError(`it nests more than ${MAX_DEPTH} deep`);
  if (Array.isArray(value)) return Array.from(value, (item) => expressible(item, depth + 1));
  const entries = value instanceof Map ? [...value] : isPlain(value) ? Object.entries(value) : undefined;
  if (entries === undefined) {
    const advice = ArrayBuffer.isView(value)
      ? "make it an input of its own"
      : "send plain objects, lists, text and numbers";
    throw new TypeError(`${value.constructor?.name ?? "an object"} cannot be inside a value; ${advice}`);
  }
  const packed: Record<string, unknown> = Object.create(null); // so that no name has a meaning of its own
  for (const [key, item] of entries) {
    if (typeof key !== "string") throw new TypeError("a map's keys must be text");
    expressible(key, depth);
    if (item !== undefined) packed[key] = expressible(item, depth + 1);
  }
  return packed;
}

const LONE_SURROGATE = /\p{Surrogate}/u;

export function isWellFormed(text: string): boolean {
  return !LONE_SURROGATE.test(text);
}

function isPlain(value: object): boolean {
  const prototype: unknown = Object.getPrototypeOf(value);
  return prototype === null || prototype === Object.prototype || Object.getPrototypeOf(prototype) === null;
}
