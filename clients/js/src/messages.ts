/**
 * What a header means: a msgpack map of fields. A field that is not known is ignored, one that is nil is absent; a
 * known one of a wrong type is an InvalidArgument that names it. A header that is no map is a ProtocolError.
 */

import { fieldType, fieldValue, fromWire, ProtocolError, type InferdError } from "./errors.js";
import { MAX_HEADER_ENTRIES, packMap, unpackMap, type Value, type ValueMap } from "./msgpack.js";
import { parseTable, type Row } from "./tensor.js";

/** The map in a header; no bytes are an empty map. */
export function unpackHeader(header: Uint8Array): ValueMap {
  if (header.length === 0) return {};
  try {
    return unpackMap(header, MAX_HEADER_ENTRIES, true);
  } catch (error) {
    throw error instanceof ProtocolError ? new ProtocolError(`the header cannot be read: ${error.message}`) : error;
  }
}

function field<T extends Value>(
  fields: ValueMap,
  name: string,
  is: (value: Value) => value is T,
  expected: string,
): T | undefined {
  const value = fields[name];
  if (value === undefined || value === null) return undefined;
  if (!is(value)) throw fieldType(name, expected);
  return value;
}

const isText = (value: Value): value is string => typeof value === "string";
const isBoolean = (value: Value): value is boolean => typeof value === "boolean";
const isNumber = (value: Value): value is number => typeof value === "number";
const isMap = (value: Value): value is ValueMap =>
  typeof value === "object" && value !== null && !Array.isArray(value) && !(value instanceof Uint8Array);

/** The first words of a client: what it calls itself, and the token if the server wants one. */
export function packHello(client: string, token: string | undefined): Uint8Array {
  return packMap({ versions: [1, 1], client, token });
}

/** The server's answer to HELLO: `limits` are the largest of each that it takes, by their names on the wire. */
export interface Welcome {
  server: string;
  limits: Readonly<Record<string, number>>;
}

export function parseWelcome(header: Uint8Array): Welcome {
  const fields = unpackHeader(header);
  const version = field(fields, "version", isNumber, "a whole number");
  if (version === undefined) throw new ProtocolError("WELCOME names no version");
  const limits = field(fields, "limits", isMap, "a map") ?? {};
  if (!Object.values(limits).every((limit) => Number.isInteger(limit) && (limit as number) >= 0)) {
    throw fieldType("limits", "a map of whole numbers");
  }
  return { server: field(fields, "server", isText, "text") ?? "", limits: limits as Record<string, number> };
}

/** The fields of an INFER besides its tensors. `deadlineMs` is what is left of the caller's time. */
export interface InferFields {
  model: string;
  rows?: number | undefined;
  deadlineMs?: number | undefined;
  priority?: string | undefined;
  supersede?: string | undefined;
  timing?: boolean | undefined;
}

export function packInfer(fields: InferFields, table: readonly Row[]): Uint8Array {
  return packMap({
    model: fields.model,
    inputs: table.length > 0 ? table.map(({ name, dtype, shape, offset }) => [name, dtype, shape, offset]) : undefined,
    rows: fields.rows,
    deadline_ms: fields.deadlineMs,
    priority: fields.priority,
    supersede: fields.supersede,
    timing: fields.timing || undefined,
  });
}

/** A result's header: the table of its tensors, where the last of them ends, and the timeline if it was asked for. */
export interface ResultHeader {
  table: readonly Row[];
  tensorEnd: number;
  timing: ValueMap | undefined;
}

export function parseResult(header: Uint8Array): ResultHeader {
  const fields = unpackHeader(header);
  const timing = field(fields, "timing", isMap, "a map");
  const [table, tensorEnd] = parseTable(fields["outputs"], "outputs");
  return { table, tensorEnd, timing };
}

export function parseError(header: Uint8Array, requestId: number): InferdError {
  const fields = unpackHeader(header);
  const retryAfterMs = field(fields, "retry_after_ms", isNumber, "a number of milliseconds");
  if (retryAfterMs !== undefined && !(Number.isFinite(retryAfterMs) && retryAfterMs >= 0)) {
    throw fieldValue("retry_after_ms", "must be finite and not negative");
  }
  return fromWire(field(fields, "code", isText, "text") ?? "UNKNOWN", field(fields, "message", isText, "text") ?? "", {
    reason: field(fields, "reason", isText, "text") ?? "",
    retryable: field(fields, "retryable", isBoolean, "true or false") ?? false,
    retryAfterMs,
    requestId,
  });
}
