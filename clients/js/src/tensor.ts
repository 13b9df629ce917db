/// <reference lib="esnext.float16" preserve="true" />
/**
 * Tensors: dtype, shape and data, and where they lie in a payload. On the wire they are little-endian, in C order (the
 * last dimension varies fastest), each at a multiple of 64 bytes. The names are those of the Open Inference Protocol.
 */

import { ConfigError, badTensor, fieldType, fieldValue } from "./errors.js";

/** The closed list: name → bytes per element. */
export const ITEM_BYTES = {
  BOOL: 1,
  UINT8: 1,
  UINT16: 2,
  UINT32: 4,
  UINT64: 8,
  INT8: 1,
  INT16: 2,
  INT32: 4,
  INT64: 8,
  FP16: 2,
  BF16: 2,
  FP32: 4,
  FP64: 8,
} as const;

export type Dtype = keyof typeof ITEM_BYTES;

export type TypedArray =
  | Uint8Array
  | Uint8ClampedArray
  | Uint16Array
  | Uint32Array
  | BigUint64Array
  | Int8Array
  | Int16Array
  | Int32Array
  | BigInt64Array
  | Float16Array
  | Float32Array
  | Float64Array;

interface TypedArrayConstructor {
  readonly BYTES_PER_ELEMENT: number;
  new (buffer: ArrayBufferLike, byteOffset: number, length: number): TypedArray;
}

// Not every engine has it yet. Where it is missing an FP16 is its bits, as a BF16 is everywhere.
const half: TypedArrayConstructor = typeof Float16Array === "undefined" ? Uint16Array : Float16Array;

const ARRAYS: Readonly<Record<Dtype, TypedArrayConstructor>> = {
  BOOL: Uint8Array,
  UINT8: Uint8Array,
  UINT16: Uint16Array,
  UINT32: Uint32Array,
  UINT64: BigUint64Array,
  INT8: Int8Array,
  INT16: Int16Array,
  INT32: Int32Array,
  INT64: BigInt64Array,
  FP16: half,
  BF16: Uint16Array,
  FP32: Float32Array,
  FP64: Float64Array,
};

// By the name that the array says it has, so that those of another realm (an iframe's, a test runner's) count too.
const DTYPES: Readonly<Record<string, Dtype>> = {
  Uint8Array: "UINT8",
  Uint8ClampedArray: "UINT8",
  Uint16Array: "UINT16",
  Uint32Array: "UINT32",
  BigUint64Array: "UINT64",
  Int8Array: "INT8",
  Int16Array: "INT16",
  Int32Array: "INT32",
  BigInt64Array: "INT64",
  Float16Array: "FP16",
  Float32Array: "FP32",
  Float64Array: "FP64",
};

export function isDtype(dtype: unknown): dtype is Dtype {
  return typeof dtype === "string" && Object.hasOwn(ITEM_BYTES, dtype);
}

/** The dtype that a typed array is sent as; undefined for anything else. */
export function dtypeOf(value: unknown): Dtype | undefined {
  if (!ArrayBuffer.isView(value)) return undefined;
  const name = (value as unknown as Record<symbol, unknown>)[Symbol.toStringTag];
  return typeof name === "string" && Object.hasOwn(DTYPES, name) ? DTYPES[name] : undefined;
}

/**
 * A tensor: `data` holds the product of `shape` elements in C order. BOOL is a Uint8Array of 0 and 1, INT64 and UINT64
 * are BigInt64Array and BigUint64Array, BF16 is a Uint16Array of its bits, and FP16 too where there is no Float16Array.
 *
 * Throws InvalidArgument when the three do not fit together.
 */
export class Tensor {
  readonly dtype: Dtype;
  readonly shape: readonly number[];
  readonly data: TypedArray;

  constructor(dtype: Dtype, shape: readonly number[], data: TypedArray) {
    if (!isDtype(dtype)) throw badTensor(String(dtype), `dtype must be one of ${Object.keys(ITEM_BYTES).join(", ")}`);
    const expected = ARRAYS[dtype];
    const given = dtypeOf(data);
    const bits = dtype === "FP16" && given === "UINT16";
    if (given === undefined || (given !== dtypeOf(new expected(new ArrayBuffer(0), 0, 0)) && !bits)) {
      throw badTensor(dtype, `its data must be a ${(expected as unknown as { name: string }).name}`);
    }
    const elements = shape.reduce((product, dim) => product * checkedDim(dtype, dim), 1);
    if (elements !== data.length) {
      throw badTensor(dtype, `shape [${shape.join(", ")}] has ${elements} elements, the data has ${data.length}`);
    }
    this.dtype = dtype;
    this.shape = [...shape];
    this.data = data;
  }
}

/** One row of a tensor table: where in a payload which tensor lies. */
export interface Row {
  name: string;
  dtype: Dtype;
  shape: readonly number[];
  offset: number;
  bytes: number;
}

const MAX_TENSORS = 64;
const MAX_DIMS = 16;
const MAX_NAME_BYTES = 128;
const MAX_DIM = 2 ** 40;

/** `offset` rounded up to the next multiple of 64: a cache line, and what vector loads and DMA like. */
export function aligned(offset: number): number {
  return Math.ceil(offset / 64) * 64;
}

/** Places tensors one after the other on 64-byte boundaries: the table, and where the last of them ends. */
export function layout(tensors: Iterable<readonly [string, Tensor]>): [Row[], number] {
  const table: Row[] = [];
  let end = 0;
  for (const [name, { dtype, shape, data }] of tensors) {
    const offset = aligned(end);
    table.push({ name, dtype, shape, offset, bytes: data.byteLength });
    end = offset + data.byteLength;
  }
  return [table, end];
}

/**
 * Checks a header's tensor table; returns it and the offset at which the last tensor ends. No table is an empty one.
 * Throws InvalidArgument naming the field.
 */
export function parseTable(rows: unknown, field: string): [Row[], number] {
  if (rows === undefined || rows === null) return [[], 0];
  if (!Array.isArray(rows)) throw fieldType(field, "a list of [name, dtype, shape, offset]");
  if (rows.length > MAX_TENSORS) {
    throw fieldValue(field, `has ${rows.length} tensors, at most ${MAX_TENSORS} are allowed`);
  }
  const table: Row[] = [];
  const names = new Set<string>();
  let end = 0;
  for (const entry of rows) {
    const row = parseRow(entry, field);
    if (names.has(row.name)) throw badTensor(row.name, "is there twice");
    if (row.offset % 64 !== 0 || row.offset < end) {
      throw badTensor(row.name, "offset must be a multiple of 64 behind the tensor before");
    }
    names.add(row.name);
    // A size beyond 2^53 is not exact, but it is far over every payload, and that is all it is compared with.
    end = row.offset + row.bytes;
    table.push(row);
  }
  return [table, end];
}

function parseRow(entry: unknown, field: string): Row {
  if (!Array.isArray(entry) || entry.length !== 4) throw fieldType(field, "a list of [name, dtype, shape, offset]");
  const [name, dtype, shape, offset] = entry as unknown[];
  const nameBytes = typeof name === "string" ? new TextEncoder().encode(name).length : 0;
  if (typeof name !== "string" || nameBytes < 1 || nameBytes > MAX_NAME_BYTES) {
    throw fieldValue(field, `has a tensor whose name is not 1 to ${MAX_NAME_BYTES} bytes`);
  }
  if (!isDtype(dtype)) throw badTensor(name, `dtype must be one of ${Object.keys(ITEM_BYTES).join(", ")}`);
  if (!Array.isArray(shape) || shape.length > MAX_DIMS) {
    throw badTensor(name, `shape must be a list of at most ${MAX_DIMS} sizes`);
  }
  const dims = shape.map((dim) => checkedDim(name, dim));
  if (dims.includes(0) && dims.reduce((product, dim) => product * (dim || 1), 1) > MAX_DIM) {
    throw badTensor(name, "shape must not exceed 2^40 elements beside its 0");
  }
  if (!isSize(offset)) throw badTensor(name, "offset must be a whole number from 0 to 2^40");
  const bytes = dims.reduce((product, dim) => product * dim, ITEM_BYTES[dtype]);
  return { name, dtype, shape: dims, offset, bytes };
}

function isSize(value: unknown): value is number {
  return typeof value === "number" && Number.isInteger(value) && value >= 0 && value <= MAX_DIM;
}

function checkedDim(name: string, dim: unknown): number {
  if (!isSize(dim)) throw badTensor(name, "shape must hold whole numbers from 0 to 2^40");
  return dim;
}

/** The tensor of a row, as a view of the payload where its place there allows it, otherwise as a copy. */
export function tensorIn(payload: Uint8Array, row: Row): Tensor {
  const array = ARRAYS[row.dtype];
  const count = row.bytes / ITEM_BYTES[row.dtype];
  let { buffer, byteOffset } = payload as { buffer: ArrayBufferLike; byteOffset: number };
  byteOffset += row.offset;
  if (byteOffset % array.BYTES_PER_ELEMENT !== 0) {
    buffer = payload.slice(row.offset, row.offset + row.bytes).buffer;
    byteOffset = 0;
  }
  // An empty tensor may lie where the payload has ended.
  return new Tensor(
    row.dtype,
    row.shape,
    count === 0 ? new array(new ArrayBuffer(0), 0, 0) : new array(buffer, byteOffset, count),
  );
}

/** Throws ConfigError on a machine whose typed arrays are not what the wire wants. */
export function checkByteOrder(): void {
  if (new Uint8Array(Uint16Array.of(1).buffer)[0] !== 1) {
    throw new ConfigError(
      "this machine is big-endian, and this client sends typed arrays as they lie; use another machine",
    );
  }
}
