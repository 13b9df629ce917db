/** What the daemon says of its models, and which of them can mark a text. */

import type { ModelInfo } from "../src/index.js";
import type { Spec } from "./inputs.js";

/** What the page uses of a model's description. A side is undefined where the model does not declare it. */
export interface Model {
  name: string;
  inputs: readonly Spec[] | undefined;
  outputs: readonly Spec[] | undefined;
  maxBatchSize: number;
}

/** From the description in WELCOME (docs/PROTOCOL.md). */
export function modelOf({ name, inputs, outputs, max_batch_size: maxBatchSize }: ModelInfo): Model {
  return { name, inputs: specsOf(inputs), outputs: specsOf(outputs), maxBatchSize };
}

function specsOf(side: ModelInfo["inputs"]): Spec[] | undefined {
  return side?.map(([name, dtype, shape]) => ({ name, dtype, shape }));
}

/** A model that takes one text and answers with `spans` in it. */
export interface Marker {
  model: string;
  input: string;
}

/** The models that can mark a text, `ner` before the others. */
export function markersAmong(models: readonly Model[]): Marker[] {
  const found: Marker[] = [];
  for (const { name, inputs, outputs } of models) {
    const [input, ...more] = inputs ?? [];
    if (input?.dtype !== "STRING" || more.length > 0) continue;
    if (outputs?.some((output) => output.name === "spans")) found.push({ model: name, input: input.name });
  }
  return found.sort((a, b) => Number(b.model === "ner") - Number(a.model === "ner"));
}
