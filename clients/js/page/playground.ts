/** The playground: a form made from a model's signature, asked when it is sent. */

import { InferdError, type InputValue, type Tensor } from "../src/index.js";
import { failure, failureOf, output, timeline } from "./answers.js";
import { byId, make, say } from "./dom.js";
import {
  DTYPES,
  FormError,
  VALUE_KINDS,
  beginning,
  isFloat,
  isTensor,
  readTensor,
  readValue,
  typeText,
  type Given,
  type Spec,
} from "./inputs.js";
import type { Model } from "./models.js";
import type { Ask } from "./session.js";
import { tensorOf } from "./tensors.js";

/** One input of the form. */
interface Field {
  element: HTMLElement;
  spec: Spec;
  /** What goes into the request. Throws FormError. */
  read(rows: number | undefined): Tensor | InputValue;
}

export class Playground {
  private readonly select = byId("model", HTMLSelectElement);
  private readonly signature = byId("signature", HTMLElement);
  private readonly box = byId("inputs", HTMLElement);
  private readonly adders = byId("adders", HTMLElement);
  private readonly rows = byId("rows", HTMLInputElement);
  private readonly timeout = byId("timeout", HTMLInputElement);
  private readonly priority = byId("priority", HTMLSelectElement);
  private readonly timing = byId("timing", HTMLInputElement);
  private readonly send = byId("send", HTMLButtonElement);
  private readonly cancel = byId("cancel", HTMLButtonElement);
  private readonly title = byId("answer-title", HTMLElement);
  private readonly body = byId("answer-body", HTMLElement);
  private models: readonly Model[] = [];
  private fields: Field[] = [];
  private asking: AbortController | undefined;

  constructor(private readonly ask: Ask) {
    byId("ask", HTMLFormElement).addEventListener("submit", (event) => {
      event.preventDefault();
      void this.submit();
    });
    this.select.addEventListener("change", () => this.build());
    this.cancel.addEventListener("click", () => this.asking?.abort(new Error("cancelled here")));
    this.makeAdders();
  }

  /** The models that are served now. What was filled in stays if its model is still there. */
  offer(models: readonly Model[]): void {
    const before = this.chosen;
    this.models = models;
    this.select.replaceChildren(...models.map((model) => make("option", { value: model.name }, model.name)));
    const same = models.find((model) => model.name === before?.name);
    if (same !== undefined) this.select.value = same.name;
    if (JSON.stringify(same) !== JSON.stringify(before) || same === undefined) this.build();
  }

  private get chosen(): Model | undefined {
    return this.models.find((model) => model.name === this.select.value);
  }

  // ---- the form

  private build(): void {
    const model = this.chosen;
    if (model === undefined) return;
    const side = (specs: Model["inputs"]): string =>
      specs === undefined
        ? "anything"
        : specs.map((spec) => `${spec.name} ${typeText(spec.dtype, spec.shape)}`).join(", ") || "nothing";
    const outputs = model.outputs === undefined ? "does not say what it answers" : `answers ${side(model.outputs)}`;
    say(this.signature, `Takes ${side(model.inputs)}, ${outputs}; up to ${model.maxBatchSize} in a batch.`);
    this.fields = [];
    this.box.replaceChildren();
    for (const spec of model.inputs ?? [{ name: "text", dtype: "STRING", shape: undefined }]) {
      this.add(spec, model.inputs === undefined);
    }
    this.adders.hidden = model.inputs !== undefined;
  }

  private add(spec: Spec, removable: boolean): Field {
    const field = isTensor(spec.dtype) ? tensorField(spec) : valueField(spec);
    if (removable) {
      const remove = make("button", { type: "button", className: "quiet remove" }, "Remove");
      remove.ariaLabel = `Remove ${spec.name}`;
      remove.addEventListener("click", () => {
        this.fields = this.fields.filter((other) => other !== field);
        field.element.remove();
        this.adders.querySelector("input")?.focus();
      });
      field.element.querySelector(".label")!.append(remove);
    }
    this.fields.push(field);
    this.box.append(field.element);
    return field;
  }

  /** For a model that declares nothing: a name, a type, and a button. */
  private makeAdders(): void {
    const name = make("input", { id: "new-name", value: "x", maxLength: 128 });
    const types = [...DTYPES, ...Object.keys(VALUE_KINDS)].map((type) => make("option", {}, type));
    const type = make("select", { id: "new-type" }, ...types);
    const add = make("button", { type: "button", className: "quiet" }, "Add an input");
    add.addEventListener("click", () => {
      const taken = this.fields.some((field) => field.spec.name === name.value);
      name.setCustomValidity(name.value === "" ? "Give it a name." : taken ? "There is an input of that name." : "");
      if (!name.reportValidity()) return;
      const field = this.add({ name: name.value, dtype: type.value, shape: undefined }, true);
      field.element.querySelector<HTMLElement>("textarea, input")?.focus();
    });
    name.addEventListener("input", () => name.setCustomValidity(""));
    // Enter adds the input; it does not send the form.
    name.addEventListener("keydown", (event) => {
      if (event.key !== "Enter") return;
      event.preventDefault();
      add.click();
    });
    const labelled = (text: string, control: HTMLElement): HTMLElement =>
      make("div", { className: "field" }, make("label", { htmlFor: control.id }, text), control);
    this.adders.append(labelled("Name", name), labelled("Type", type), add);
  }

  // ---- asking

  private async submit(): Promise<void> {
    const model = this.chosen;
    if (model === undefined || this.asking !== undefined) return;
    const rows = this.rows.value === "" ? undefined : Number(this.rows.value);
    const inputs: Record<string, Tensor | InputValue> = {};
    try {
      for (const field of this.fields) inputs[field.spec.name] = field.read(rows);
    } catch (error) {
      if (!(error instanceof FormError)) throw error;
      this.show(failure("", error.message));
      return;
    }
    const asking = new AbortController();
    this.asking = asking;
    this.send.disabled = true;
    this.cancel.hidden = false;
    try {
      const result = await this.ask(model.name, inputs, {
        priority: this.priority.value as "interactive" | "standard" | "batch",
        timing: this.timing.checked,
        signal: asking.signal,
        ...(rows === undefined ? {} : { rows }),
        ...(this.timeout.value === "" ? {} : { timeoutMs: Number(this.timeout.value) }),
      });
      const outputs = Object.entries(result.outputs).map(([name, value]) => output(name, value));
      this.show(
        timeline(result.roundTripMs, result.timing),
        ...(outputs.length > 0 ? outputs : [make("p", { className: "empty" }, "The answer is empty.")]),
      );
    } catch (error) {
      if (error instanceof InferdError) this.show(failureOf(error));
      else if (asking.signal.aborted) this.show(failure("CANCELLED", "You took the request back."));
      else throw error;
    } finally {
      const hadFocus = document.activeElement === this.cancel || document.activeElement === document.body;
      this.asking = undefined;
      this.send.disabled = false;
      this.cancel.hidden = true;
      if (hadFocus) this.send.focus();
    }
  }

  private show(...elements: HTMLElement[]): void {
    this.body.replaceChildren(...elements);
    // On a phone it stands below the form.
    this.title.scrollIntoView({ block: "nearest" });
  }
}

// ---- fields

/** The first line of a field: its name, its type, and room for a button, which must not lie in the label itself. */
function line(name: HTMLElement, spec: Spec): HTMLElement {
  const type = make("span", { className: "type" }, typeText(spec.dtype, spec.shape));
  return make("div", { className: "label" }, name, type);
}

function valueField(spec: Spec): Field {
  const id = `input-${spec.name}`;
  const text = spec.dtype === "STRING";
  const area = make("textarea", { id, className: text ? "" : "code", rows: text ? 4 : 3, spellcheck: false });
  area.value = beginning(spec).text;
  const name = make("label", { htmlFor: id }, spec.name);
  const element = make("div", { className: "field" }, line(name, spec), area);
  if (!text) element.append(make("p", { className: "hint" }, "As JSON."));
  return { element, spec, read: (rows) => readValue(spec, area.value, rows) };
}

function tensorField(spec: Spec): Field {
  const id = `input-${spec.name}`;
  const begin = beginning(spec);
  const area = make("textarea", { id, className: "code", rows: 3, spellcheck: false, value: begin.text });
  area.ariaLabel = `${spec.name}, numbers as JSON lists`;
  const shape = make("input", { className: "code", value: begin.shape, id: `${id}-shape` });
  const hint = make("p", { className: "hint" });
  const fills = (["typed", "zeros", "random"] as const).map((fill) => {
    const radio = make("input", { type: "radio", name: `${id}-fill`, value: fill, checked: fill === begin.fill });
    radio.addEventListener("change", update);
    return {
      fill,
      radio,
      label: make("label", {}, radio, { typed: "As typed", zeros: "Zeros", random: "Random" }[fill]),
    };
  });
  const shapeLabel = make("label", { className: "shape" }, "Shape ", shape);
  const name = make("span", { id: `${id}-name` }, spec.name);
  const element = make(
    "div",
    { className: "field", role: "group" },
    line(name, spec),
    make("div", { className: "fills" }, ...fills.map((fill) => fill.label), shapeLabel),
    area,
    hint,
  );
  element.setAttribute("aria-labelledby", name.id);
  const chosen = (): Given["fill"] => fills.find((fill) => fill.radio.checked)?.fill ?? "typed";
  function update(): void {
    const fill = chosen();
    area.hidden = fill !== "typed";
    shapeLabel.hidden = fill === "typed";
    const random = isFloat(spec.dtype) ? "from 0 to 1" : "whole, from 0 to 99";
    say(
      hint,
      {
        typed: "Numbers as JSON lists; the nesting is the shape.",
        zeros: "Zeros of this shape.",
        random: `New random numbers each time, ${spec.dtype === "BOOL" ? "0 or 1" : random}.`,
      }[fill],
    );
  }
  update();
  const read = (rows: number | undefined): Tensor =>
    tensorOf(readTensor(spec, { fill: chosen(), text: area.value, shape: shape.value }, rows));
  return { element, spec, read };
}
