/** What a model answered, as text: the first numbers of a tensor, and any other value as JSON that can be read. */

// Lines and numbers of a tensor that are shown.
const MAX_LINES = 8;
const MAX_NUMBERS = 8;
// Characters of a value that are shown: some screens full.
const MAX_CHARACTERS = 50_000;
// A list or map that fits into this many characters stays on one line.
const LINE = 88;
const BYTES_SHOWN = 24;
// Rows of a table; a longer list is shown as JSON, and cut.
const MAX_ROWS = 500;

type Numbers = ArrayLike<number> | ArrayLike<bigint>;

/** The first numbers of a tensor, a line for each row of its last dimension. */
export function tensorText(shape: readonly number[], data: Numbers): string {
  if (data.length === 0) return "(no elements)";
  const width = shape.at(-1) ?? 1;
  const lines = data.length / width;
  const shown = Array.from({ length: Math.min(lines, MAX_LINES) }, (_, line) => {
    const count = Math.min(width, MAX_NUMBERS);
    return Array.from({ length: count }, (_, column) => numberText(data[line * width + column]!));
  });
  const columns = Math.max(...shown.flat().map((text) => text.length));
  const text = shown
    .map((row) => row.map((word) => word.padStart(columns)).join("  ") + (width > MAX_NUMBERS ? "  …" : ""))
    .join("\n");
  return lines > MAX_LINES ? `${text}\n…` : text;
}

/** Least, mean and greatest of a tensor with several numbers: "min −1.2, mean 0.03, max 2"; else "". */
export function tensorSummary(data: Numbers): string {
  if (data.length < 2) return "";
  let least = Infinity;
  let greatest = -Infinity;
  let sum = 0;
  for (let i = 0; i < data.length; i += 1) {
    const value = Number(data[i]);
    least = Math.min(least, value);
    greatest = Math.max(greatest, value);
    sum += value;
  }
  return `min ${numberText(least)}, mean ${numberText(sum / data.length)}, max ${numberText(greatest)}`;
}

function numberText(value: number | bigint): string {
  if (typeof value === "bigint" || Number.isInteger(value)) return String(value);
  return String(Number(value.toPrecision(5)));
}

export interface Table {
  columns: string[];
  rows: string[][];
}

/** A list of maps with the same keys and plain values, which is easier to read as a table; undefined for all else. */
export function tableOf(value: unknown): Table | undefined {
  if (!Array.isArray(value) || value.length === 0 || value.length > MAX_ROWS) return undefined;
  const [first] = value as unknown[];
  if (!isMap(first)) return undefined;
  const columns = Object.keys(first);
  const alike = (row: unknown): row is Record<string, unknown> =>
    isMap(row) && Object.keys(row).join("\n") === columns.join("\n") && Object.values(row).every(isPlain);
  if (columns.length === 0 || !value.every(alike)) return undefined;
  return { columns, rows: value.map((row) => columns.map((column) => String(row[column]))) };
}

function isMap(value: unknown): value is Record<string, unknown> {
  return typeof value === "object" && value !== null && !Array.isArray(value) && !(value instanceof Uint8Array);
}

function isPlain(value: unknown): boolean {
  return value === null || ["string", "number", "bigint", "boolean"].includes(typeof value);
}

/** A value as JSON with short lists and maps on one line; bytes are shown in hexadecimal. */
export function valueText(value: unknown): string {
  const text = pretty(value, "");
  const rest = text.length - MAX_CHARACTERS;
  return rest > 0 ? `${text.slice(0, MAX_CHARACTERS)}\n… ${rest.toLocaleString("en")} characters more` : text;
}

function pretty(value: unknown, indent: string): string {
  const inner = `${indent}  `;
  if (value instanceof Uint8Array) {
    const hex = Array.from(value.subarray(0, BYTES_SHOWN), (byte) => byte.toString(16).padStart(2, "0")).join(" ");
    return `<${value.length} bytes: ${hex}${value.length > BYTES_SHOWN ? " …" : ""}>`;
  }
  if (typeof value === "bigint") return String(value);
  if (typeof value !== "object" || value === null) return JSON.stringify(value) ?? "null";
  const list = Array.isArray(value);
  const parts = list
    ? value.map((item) => pretty(item, inner))
    : Object.entries(value).map(([key, item]) => `${JSON.stringify(key)}: ${pretty(item, inner)}`);
  const [open, close] = list ? ["[", "]"] : ["{", "}"];
  const line = `${open}${parts.join(", ")}${close}`;
  if (line.length + indent.length <= LINE && !line.includes("\n")) return line;
  return `${open}\n${parts.map((part) => inner + part).join(",\n")}\n${indent}${close}`;
}
