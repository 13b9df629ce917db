/** What the playground shows of an answer: where the time went, the outputs, or what went wrong. */

import { type InferdError, type Result, Tensor } from "../src/index.js";
import { make } from "./dom.js";
import { typeText } from "./inputs.js";
import { tableOf, tensorSummary, tensorText, valueText } from "./outputs.js";
import { ms, releasedWords } from "./strokes.js";
import { numbersOf } from "./tensors.js";

/** One output: its name, its type, and the first of what is in it. */
export function output(name: string, value: unknown): HTMLElement {
  const tensor = value instanceof Tensor;
  const kind = tensor ? typeText(value.dtype, value.shape) : Array.isArray(value) ? `list of ${value.length}` : "value";
  const title = make("h3", {}, name, make("span", { className: "type" }, kind));
  if (!tensor)
    return make("div", { className: "output" }, title, tableFor(name, value) ?? block(name, valueText(value)));
  const numbers = numbersOf(value);
  const summary = make("p", { className: "hint" }, tensorSummary(numbers));
  return make("div", { className: "output" }, title, block(name, tensorText(value.shape, numbers), "tensor"), summary);
}

/** A list of maps that are all alike, as a table. */
function tableFor(name: string, value: unknown): HTMLElement | undefined {
  const table = tableOf(value);
  if (table === undefined) return undefined;
  const head = make("tr", {}, ...table.columns.map((column) => make("th", { scope: "col" }, column)));
  const rows = table.rows.map((row) => make("tr", {}, ...row.map((cell) => make("td", {}, cell))));
  const body = make("table", {}, make("thead", {}, head), make("tbody", {}, ...rows));
  return make("div", { className: "scroll", role: "group", ariaLabel: name, tabIndex: 0 }, body);
}

/** A block of text that scrolls, and that the keyboard can reach for that. */
function block(name: string, text: string, className = ""): HTMLElement {
  return make("pre", { className, role: "group", ariaLabel: name, tabIndex: 0 }, text);
}

/** Where the time went: the round trip, and its parts if the server was asked for them. */
export function timeline(roundTripMs: number, timing: Result["timing"]): HTMLElement {
  const trip = make("p", { className: "trip" }, ms(roundTripMs), make("span", { className: "unit" }, " ms"));
  const element = make("div", { className: "timeline" }, trip);
  if (timing !== undefined) {
    const queued = timing.queuedMs ?? 0;
    const compute = timing.computeMs ?? 0;
    const parts = { way: roundTripMs - queued - compute, queue: queued, compute };
    const names = { way: "Network, browser", queue: "Queue", compute: "Compute" };
    element.append(
      make(
        "dl",
        { className: "parts" },
        ...(["way", "queue", "compute"] as const).map((part) =>
          make(
            "div",
            { className: `part ${part}` },
            make("dt", {}, names[part]),
            make("dd", {}, ms(Math.max(0, parts[part]))),
          ),
        ),
      ),
      make("p", { className: "batch" }, `Batch of ${timing.batchRows ?? 0}: ${releasedWords(timing.released ?? "")}.`),
    );
  }
  return element;
}

/** A failed request: its code and reason, the server's own words, and whether trying again can help. */
export function failureOf(error: InferdError): HTMLElement {
  const code = error.reason ? `${error.code} / ${error.reason}` : error.code;
  const after = error.retryAfterMs === undefined ? "" : ` in ${ms(error.retryAfterMs)} ms`;
  return failure(code, error.message, error.retryable ? `The same request can succeed if sent again${after}.` : "");
}

/** Something that went wrong, in a sentence. */
export function failure(code: string, message: string, advice = ""): HTMLElement {
  const element = make("div", { className: "failure" });
  if (code) element.append(make("p", { className: "code" }, code));
  element.append(make("p", {}, message));
  if (advice) element.append(make("p", { className: "hint" }, advice));
  return element;
}
