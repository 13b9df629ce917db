/** The list of what was found, and its summary for those who do not see the marks. */

import { make, say } from "./dom.js";
import { countWords, kindOf, kindWord } from "./kinds.js";
import type { Mark } from "./spans.js";

// Long enough that a pause is meant, so that a screen reader is not interrupted with every letter.
const QUIET_MS = 1200;

export class Found {
  private shown = "";
  private timer = 0;

  constructor(
    private readonly list: HTMLElement,
    private readonly empty: HTMLElement,
    private readonly summary: HTMLElement,
  ) {}

  /** Lists what the marks of `text` name, in the order of the text, each name once. */
  show(marks: readonly Mark[], text: string): void {
    const names = new Map<string, { entity: string; name: string; times: number }>();
    for (const { entity, start, end } of marks) {
      const name = text.slice(start, end).replace(/\s+/g, " ");
      const entry = names.get(`${entity} ${name}`);
      if (entry === undefined) names.set(`${entity} ${name}`, { entity, name, times: 1 });
      else entry.times += 1;
    }
    const entries = [...names.values()];
    const key = JSON.stringify(entries);
    if (key === this.shown) return;
    this.shown = key;
    this.empty.hidden = entries.length > 0;
    this.list.replaceChildren(
      ...entries.map(({ entity, name, times }) =>
        make(
          "li",
          { className: kindOf(entity) },
          make("span", { className: "name" }, name),
          make("span", { className: "kind" }, `${kindWord(entity)}${times > 1 ? ` ×${times}` : ""}`),
        ),
      ),
    );
    clearTimeout(this.timer);
    const words = countWords(entries.map((entry) => entry.entity));
    this.timer = window.setTimeout(() => say(this.summary, words ? `Found ${words}.` : "Nothing found."), QUIET_MS);
  }
}
