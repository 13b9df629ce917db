/** Between the client's tensors, which hold what travels, and numbers that a form or a reader has. */

import { type Dtype, Tensor, type TypedArray } from "../src/index.js";
import { FormError, type TensorData } from "./inputs.js";

type Maker = (data: ArrayLike<number>) => TypedArray;

const MAKERS: Record<string, Maker> = {
  BOOL: (data) => Uint8Array.from(data),
  UINT8: (data) => Uint8Array.from(data),
  UINT16: (data) => Uint16Array.from(data),
  UINT32: (data) => Uint32Array.from(data),
  UINT64: (data) => BigUint64Array.from(data as ArrayLike<number | bigint>, BigInt),
  INT8: (data) => Int8Array.from(data),
  INT16: (data) => Int16Array.from(data),
  INT32: (data) => Int32Array.from(data),
  INT64: (data) => BigInt64Array.from(data as ArrayLike<number | bigint>, BigInt),
  FP16: (data) => {
    if (typeof Float16Array === "undefined")
      throw new FormError("This browser has no 16-bit floats; a newer one does.");
    return Float16Array.from(data);
  },
  BF16: bfloat16Bits,
  FP32: (data) => Float32Array.from(data),
  FP64: (data) => Float64Array.from(data),
};

/** The tensor with these numbers. */
export function tensorOf({ dtype, shape, data }: TensorData): Tensor {
  return new Tensor(dtype as Dtype, shape, MAKERS[dtype]!(data));
}

/** The numbers of a tensor: its data, and for BF16 what the bits mean. */
export function numbersOf({ dtype, data }: Tensor): ArrayLike<number> | ArrayLike<bigint> {
  return dtype === "BF16" ? Float32Array.from(data as Uint16Array, bfloat16Value) : data;
}

const word = new Uint32Array(1);
const float = new Float32Array(word.buffer);

function bfloat16Value(bits: number): number {
  word[0] = bits << 16;
  return float[0]!;
}

/** The upper half of each FP32, rounded to nearest, ties to even. */
function bfloat16Bits(data: ArrayLike<number>): Uint16Array {
  return Uint16Array.from(data, (value) => {
    float[0] = value;
    return (word[0]! + 0x7fff + ((word[0]! >>> 16) & 1)) >>> 16;
  });
}
