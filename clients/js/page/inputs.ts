/** From what stands in the playground's form to a request's inputs. Every error says which field, and what would do. */

/** A tensor of the wire; `data` is flat, in C order. */
export interface TensorData {
  dtype: string;
  shape: number[];
  data: ArrayLike<number>;
}

/** What a model says of one input; `shape` is that of one item, −1 any size, and undefined when it does not say. */
export interface Spec {
  name: string;
  dtype: string;
  shape: readonly number[] | undefined;
}

/** How one input is filled in: what was typed, or zeros or random numbers of a shape. */
export interface Given {
  fill: "typed" | "zeros" | "random";
  text: string;
  shape: string;
}

/** What JSON can say. */
export type Json = null | boolean | number | string | Json[] | { [key: string]: Json };

/** What stands in the form cannot be sent. */
export class FormError extends Error {}

export const DTYPES: readonly string[] = [
  "FP32",
  "FP64",
  "FP16",
  "BF16",
  "INT8",
  "INT16",
  "INT32",
  "INT64",
  "UINT8",
  "UINT16",
  "UINT32",
  "UINT64",
  "BOOL",
];
/** The kinds of values that are no tensors, with what the form begins with. */
export const VALUE_KINDS: Record<string, string> = {
  STRING: "",
  NUMBER: "0",
  BOOLEAN: "false",
  LIST: "[]",
  MAP: "{}",
  ANY: "null",
};

// Where a size is free, the form begins with this one.
const FREE_SIZE = 4;
// Up to here an input is shown as numbers to be edited; beyond, it is filled when it is sent.
const EDITABLE_ELEMENTS = 64;
// 64 MiB of FP32, which is the most that a daemon takes by default, and no burden for a tab.
const MAX_ELEMENTS = 1 << 24;

export function isTensor(dtype: string): boolean {
  return DTYPES.includes(dtype);
}

/** `FP32[3, 224, 224]`, with −1 as it stands in the signature; STRING has no shape. */
export function typeText(dtype: string, shape: readonly number[] | undefined): string {
  return isTensor(dtype) && shape !== undefined ? `${dtype}[${shape.join(", ")}]` : dtype;
}

/** What the form shows first: zeros to edit where they are few, else random numbers of the declared shape. */
export function beginning(spec: Spec): Given {
  if (!isTensor(spec.dtype)) return { fill: "typed", text: VALUE_KINDS[spec.dtype] ?? "null", shape: "" };
  const shape = (spec.shape ?? [FREE_SIZE]).map((size) => (size < 0 ? FREE_SIZE : size));
  const few = product(shape) <= EDITABLE_ELEMENTS;
  return {
    fill: few ? "typed" : "random",
    text: few ? JSON.stringify(nested(shape)).replaceAll(",", ", ") : "",
    shape: shape.join(", "),
  };
}

/** A value for a request of `rows` items, or for one item. Throws FormError. */
export function readValue(spec: Spec, text: string, rows: number | undefined): Json {
  if (spec.dtype === "STRING") return readText(spec, text, rows);
  const value = parse(spec, text);
  if (rows !== undefined && (!Array.isArray(value) || value.length !== rows)) {
    throw new FormError(`${spec.name}: with rows = ${rows} this is a list of ${rows}, one for each row.`);
  }
  for (const one of rows === undefined ? [value] : (value as Json[])) checkKind(spec, one);
  return value;
}

function readText(spec: Spec, text: string, rows: number | undefined): string | string[] {
  if (rows === undefined) return text;
  const lines = text.split("\n");
  if (lines.length !== rows) {
    throw new FormError(`${spec.name}: with rows = ${rows} every line is a row; there are ${lines.length} lines.`);
  }
  return lines;
}

function parse(spec: Spec, text: string): Json {
  try {
    return JSON.parse(text) as Json;
  } catch (error) {
    throw new FormError(`${spec.name}: this is not JSON (${(error as Error).message}).`);
  }
}

function checkKind(spec: Spec, value: unknown): void {
  const fits: Record<string, boolean> = {
    NUMBER: typeof value === "number",
    BOOLEAN: typeof value === "boolean",
    LIST: Array.isArray(value),
    MAP: typeof value === "object" && value !== null && !Array.isArray(value),
  };
  if (fits[spec.dtype] === false) {
    const examples: Record<string, string> = { NUMBER: "0.5", BOOLEAN: "true", LIST: "[1, 2]", MAP: '{"a": 1}' };
    throw new FormError(`${spec.name}: ${spec.dtype} is asked for, such as ${examples[spec.dtype]}.`);
  }
}

// ---- tensors

/** A tensor for a request of `rows` items, which then leads with that many, or for one item. Throws FormError. */
export function readTensor(spec: Spec, given: Given, rows: number | undefined): TensorData {
  const lead = rows === undefined ? [] : [rows];
  if (given.fill !== "typed") {
    const shape = [...lead, ...readShape(spec, given.shape)];
    if (product(shape) > MAX_ELEMENTS) throw new FormError(`${spec.name}: that is too large to be sent from here.`);
    return { dtype: spec.dtype, shape, data: filled(spec.dtype, product(shape), given.fill) };
  }
  const value = parse(spec, given.text);
  let shape = shapeOf(spec, value);
  const flat: unknown[] = shape.length === 0 ? [value] : (value as unknown[]).flat(shape.length - 1);
  const wanted = [...lead, ...(spec.shape ?? shape.slice(lead.length))];
  if (shape.length === 1 && wanted.length > 1 && given.shape.trim() !== "") {
    shape = [...lead, ...readShape(spec, given.shape)]; // a flat list, and the shape beside it
  }
  const fits = shape.length === wanted.length && shape.every((size, axis) => [-1, size].includes(wanted[axis]!));
  if (!fits || product(shape) !== flat.length) {
    throw new FormError(
      `${spec.name}: the model takes ${typeText(spec.dtype, wanted)}, and these are ${flat.length} numbers ` +
        `of shape [${shape.join(", ")}].`,
    );
  }
  return { dtype: spec.dtype, shape, data: toData(spec, flat) };
}

function readShape(spec: Spec, text: string): number[] {
  const words = text.split(/[\s,×x]+/).filter((word) => word !== "");
  const shape = words.map(Number);
  if (!shape.every((size) => Number.isInteger(size) && size >= 0)) {
    throw new FormError(`${spec.name}: the shape is whole numbers, such as 3, 224, 224.`);
  }
  const declared = spec.shape;
  if (
    declared &&
    (shape.length !== declared.length || declared.some((size, axis) => size >= 0 && size !== shape[axis]))
  ) {
    throw new FormError(
      `${spec.name}: the model takes ${typeText(spec.dtype, declared)}, −1 being any size; this is [${shape.join(", ")}].`,
    );
  }
  return shape;
}

/** The shape of nested lists. Throws FormError where they are ragged. */
function shapeOf(spec: Spec, value: unknown): number[] {
  if (!Array.isArray(value)) return [];
  const shapes = value.map((inner) => shapeOf(spec, inner));
  const first = shapes[0] ?? [];
  if (shapes.some((shape) => shape.length !== first.length || shape.some((size, axis) => size !== first[axis]))) {
    throw new FormError(`${spec.name}: the lists are not all of one length, so this is no tensor.`);
  }
  return [value.length, ...first];
}

function toData(spec: Spec, flat: unknown[]): number[] {
  const whole = !isFloat(spec.dtype);
  return flat.map((value) => {
    if (typeof value === "boolean" && spec.dtype === "BOOL") return Number(value);
    if (typeof value === "number" && (!whole || Number.isInteger(value))) return value;
    throw new FormError(`${spec.name}: ${JSON.stringify(value)} is no ${spec.dtype}.`);
  });
}

/** Whether the dtype has numbers that are not whole. */
export function isFloat(dtype: string): boolean {
  return /^(FP|BF)/.test(dtype);
}

function filled(dtype: string, count: number, fill: "zeros" | "random"): Float64Array {
  const data = new Float64Array(count);
  const end = dtype === "BOOL" ? 2 : 100;
  if (fill === "random") {
    for (let i = 0; i < count; i += 1) data[i] = isFloat(dtype) ? Math.random() : Math.floor(Math.random() * end);
  }
  return data;
}

function product(shape: readonly number[]): number {
  return shape.reduce((total, size) => total * size, 1);
}

function nested(shape: readonly number[]): unknown {
  const [size, ...inner] = shape;
  return size === undefined ? 0 : Array.from({ length: size }, () => nested(inner));
}
