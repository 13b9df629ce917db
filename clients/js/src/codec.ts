/** Inputs to a request's bytes, and a payload to outputs. */

import {
  InvalidArgument,
  ProtocolError,
  badTensor,
  badValues,
  fieldType,
  fieldValue,
  type InferdError,
} from "./errors.js";
import { packInfer, type InferFields, type ResultHeader } from "./messages.js";
import { isWellFormed, packMap, unpackMap, type Value, type ValueMap } from "./msgpack.js";
import {
  aligned,
  dtypeOf,
  isDtype,
  layout,
  parseTable,
  Tensor,
  tensorIn,
  type Row,
  type TypedArray,
} from "./tensor.js";

/** What may be sent as a value: what comes back as one, and Map for a map. Entries that are undefined are left out. */
export type InputValue =
  Value | readonly InputValue[] | ReadonlyMap<string, InputValue> | { readonly [key: string]: InputValue | undefined };

/** A typed array is a tensor of one dimension; a Tensor has its shape; everything else is a value. */
export type Inputs = { readonly [name: string]: Tensor | TypedArray | InputValue | undefined };
export type Outputs = { [name: string]: Tensor | Value };

/** How urgent a request is. */
export type Priority = "interactive" | "standard" | "batch";
const PRIORITIES: readonly string[] = ["interactive", "standard", "batch"];
const MAX_MODEL_NAME = 64;
const MAX_SUPERSEDE_BYTES = 128;
const MAX_ROWS = 4096;
const ZEROS = new Uint8Array(64);

export interface RequestOptions {
  rows?: number | undefined;
  priority?: Priority | undefined;
  supersede?: string | undefined;
  timing?: boolean | undefined;
}

/** One INFER without its id and deadline. */
export interface Request {
  readonly fields: Readonly<InferFields>;
  readonly table: readonly Row[];
  /** The payload, to be written in this order. Tensors are where the caller has them. */
  readonly pieces: readonly Uint8Array[];
  readonly payloadBytes: number;
  /** The inputs that are sent as values, by name. */
  readonly values: Readonly<Record<string, unknown>>;
}

/** The request for `inputs`. Throws InvalidArgument naming the input or option that cannot be sent. */
export function encodeRequest(model: string, inputs: Inputs, options: RequestOptions = {}): Request {
  const fields = checkedFields(model, options);
  const tensors: [string, Tensor][] = [];
  const values: Record<string, unknown> = Object.create(null);
  for (const [name, value] of Object.entries(inputs)) {
    if (value === undefined) continue;
    const tensor = asTensor(name, value);
    if (tensor === undefined) values[name] = value;
    else tensors.push([name, tensor]);
  }
  if (options.rows !== undefined) checkRows(options.rows, tensors, values);
  const [table, tensorEnd] = layout(tensors);
  // The server's own check, before anything is sent. What passes makes a header well under its limit.
  parseTable(
    table.map(({ name, dtype, shape, offset }) => [name, dtype, shape, offset]),
    "inputs",
  );
  return { fields, table, values, ...assemble(tensors, table, tensorEnd, values) };
}

/** The header of a request, of which `deadlineMs` is left. */
export function headerOf(request: Request, deadlineMs: number): Uint8Array {
  return packInfer({ ...request.fields, deadlineMs }, request.table);
}

function checkedFields(model: string, { rows, priority, supersede, timing }: RequestOptions): InferFields {
  if (typeof model !== "string") throw fieldType("model", "text");
  const characters = [...model].length;
  if (characters < 1 || characters > MAX_MODEL_NAME || !isWellFormed(model)) {
    throw fieldValue("model", `must be 1 to ${MAX_MODEL_NAME} characters`);
  }
  if (rows !== undefined && !(Number.isInteger(rows) && rows >= 1 && rows <= MAX_ROWS)) {
    throw fieldValue("rows", `must be a whole number from 1 to ${MAX_ROWS}`);
  }
  if (priority !== undefined) {
    if (typeof priority !== "string") throw fieldType("priority", "text");
    if (!PRIORITIES.includes(priority)) throw fieldValue("priority", `must be one of ${PRIORITIES.join(", ")}`);
  }
  if (supersede !== undefined) {
    if (typeof supersede !== "string") throw fieldType("supersede", "text");
    const bytes = isWellFormed(supersede) ? new TextEncoder().encode(supersede).length : 0;
    if (bytes < 1 || bytes > MAX_SUPERSEDE_BYTES)
      throw fieldValue("supersede", `must be 1 to ${MAX_SUPERSEDE_BYTES} bytes of UTF-8`);
  }
  return { model, rows, priority: priority === "standard" ? undefined : priority, supersede, timing };
}

function asTensor(name: string, value: unknown): Tensor | undefined {
  if (value instanceof Tensor) return value;
  const dtype = dtypeOf(value);
  if (dtype !== undefined) return new Tensor(dtype, [(value as TypedArray).length], value as TypedArray);
  if (ArrayBuffer.isView(value) || value instanceof ArrayBuffer) {
    throw badTensor(name, "is raw memory, which has no dtype; pass a typed array or a Tensor");
  }
  return undefined;
}

function checkRows(rows: number, tensors: Iterable<[string, Tensor]>, values: Record<string, unknown>): void {
  const disagrees = (name: string, actual: number | string) =>
    new InvalidArgument(`input '${name}' must lead with rows = ${rows}, got ${actual}`, { reason: "ROWS" });
  for (const [name, { shape }] of tensors) {
    if (shape[0] !== rows) throw disagrees(name, shape[0] ?? "a scalar");
  }
  for (const [name, value] of Object.entries(values)) {
    if (!Array.isArray(value)) throw fieldType(name, "a list with one value per row");
    if (value.length !== rows) throw disagrees(name, value.length);
  }
}

function assemble(
  tensors: readonly (readonly [string, Tensor])[],
  table: readonly Row[],
  tensorEnd: number,
  values: Record<string, unknown>,
): { pieces: Uint8Array[]; payloadBytes: number } {
  const pieces: Uint8Array[] = [];
  let end = 0;
  const place = (offset: number, bytes: Uint8Array) => {
    if (offset !== end) pieces.push(ZEROS.subarray(0, offset - end));
    if (bytes.length > 0) pieces.push(bytes);
    end = offset + bytes.length;
  };
  table.forEach((row, i) => {
    const { data } = tensors[i]![1];
    place(row.offset, new Uint8Array(data.buffer, data.byteOffset, data.byteLength));
  });
  if (Object.keys(values).length > 0) place(aligned(tensorEnd), packValues(values));
  return { pieces, payloadBytes: end };
}

function packValues(values: Record<string, unknown>): Uint8Array {
  try {
    return packMap(values);
  } catch {
    for (const [name, value] of Object.entries(values)) {
      try {
        packMap({ [name]: value });
      } catch (error) {
        throw badValues(`cannot hold the input '${name}': ${error instanceof Error ? error.message : String(error)}`);
      }
    }
    throw badValues("cannot hold these values");
  }
}

/**
 * When the server misses an input that was given as a value where `models` says that it is a tensor: what to pass
 * instead. undefined when that is not what is wrong.
 */
export function notATensor(request: Request, models: readonly ValueMap[]): InferdError | undefined {
  const inputs = models.find((model) => model["name"] === request.fields.model)?.["inputs"];
  for (const row of Array.isArray(inputs) ? inputs : []) {
    if (!Array.isArray(row)) continue;
    const [name, dtype, shape] = row;
    if (typeof name === "string" && isDtype(dtype) && name in request.values) {
      const kind = Array.isArray(request.values[name]) ? "list" : typeof request.values[name];
      const dims = Array.isArray(shape) ? shape.join(", ") : "";
      return badTensor(name, `is ${dtype} [${dims}]; pass a typed array or a Tensor, not a ${kind}`);
    }
  }
  return undefined;
}

/** The outputs in a result's payload: tensors, mostly as views of it, and values. Throws ProtocolError. */
export function decodeOutputs(header: ResultHeader, hasValues: boolean, payload: Uint8Array): Outputs {
  const outputs: [string, Tensor | Value][] = header.table.map((row) => [row.name, tensorIn(payload, row)]);
  if (hasValues) outputs.push(...Object.entries(decodeValues(payload.subarray(aligned(header.tensorEnd)))));
  return Object.fromEntries(outputs); // which makes a name of "__proto__" a name like any other
}

/** The values of a segment. Throws ProtocolError. */
export function decodeValues(segment: Uint8Array): ValueMap {
  try {
    return unpackMap(segment, segment.length, false);
  } catch (error) {
    throw error instanceof ProtocolError
      ? new ProtocolError(`the values segment cannot be read: ${error.message}`)
      : error;
  }
}
