/**
 * The text box with marks: a textarea over a layer with the same text, of which only the marks show.
 *
 * The caret, the selection, undo, input methods and screen readers are the textarea's own, untouched. The layer is one
 * text node, and marks are ranges of it (the CSS Custom Highlight API): no element stands between two letters, so both
 * layers break their lines at the same places.
 */

import { KINDS, type Kind, kindOf } from "./kinds.js";
import type { Mark } from "./spans.js";

// A line break at the end of a block makes no line of its own; with this behind it, it does.
const END = "\u200b";

export class Editor {
  private readonly layer = document.createTextNode(END);
  private readonly highlights = new Map<Kind, Highlight>();

  /** `sheet` scrolls; in it lie `area` and, under it, `backdrop`. */
  constructor(
    private readonly sheet: HTMLElement,
    private readonly area: HTMLTextAreaElement,
    backdrop: HTMLElement,
  ) {
    backdrop.append(this.layer);
    if (Editor.canMark) {
      for (const kind of KINDS) {
        const highlight = new Highlight();
        this.highlights.set(kind, highlight);
        CSS.highlights.set(kind, highlight);
      }
    }
  }

  /** Calls `onText` whenever the text has changed, by whatever means; at once if the browser kept it over a reload. */
  listen(onText: (text: string) => void): void {
    const follow = (): void => {
      this.layer.data = this.area.value + END;
      onText(this.area.value);
    };
    // A browser that scrolls the textarea itself to show the caret, before it has grown, would part the two layers.
    this.area.addEventListener("scroll", () => {
      this.sheet.scrollTop += this.area.scrollTop;
      this.area.scrollTop = 0;
    });
    this.area.addEventListener("input", follow);
    if (this.area.value !== "") follow();
  }

  /** Whether this browser has what the marks are made with. */
  static get canMark(): boolean {
    return "highlights" in CSS;
  }

  get text(): string {
    return this.area.value;
  }

  /** Shows these marks of the text as it is now, and no others. */
  paint(marks: readonly Mark[]): void {
    for (const highlight of this.highlights.values()) highlight.clear();
    for (const mark of marks) {
      const range = new Range();
      range.setStart(this.layer, mark.start);
      range.setEnd(this.layer, mark.end);
      this.highlights.get(kindOf(mark.entity))?.add(range);
    }
  }

  /** Adds `text` at the end, and leaves the focus where it is. */
  append(text: string): void {
    const { length } = this.area.value;
    this.area.setRangeText(text, length, length, "end");
    this.area.dispatchEvent(new InputEvent("input"));
    this.sheet.scrollTop = this.sheet.scrollHeight;
  }

  /** Removes all text, in a way that can be undone. */
  clear(): void {
    this.area.focus();
    this.area.select();
    // Deprecated, and the one way that keeps the browser's undo history.
    document.execCommand("delete");
  }
}
