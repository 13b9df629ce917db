/**
 * Which answer may be shown: the newest that has come, and never one older than what is shown.
 *
 * Every change of the text gets a number. Marks that are shown move with each change until an answer to a newer text
 * comes; an answer to a text that was edited since is moved likewise; an answer older than the one shown is dropped.
 */

import { type Mark, moved } from "./spans.js";

export class Latest {
  text = "";
  marks: Mark[] = [];
  /** The number of the newest text, and of the text whose answer is shown; 0 for none. */
  typed = 0;
  shown = 0;
  private readonly waiting = new Map<number, string>();

  /** The text has changed, or is to be asked for again. Returns its number. */
  type(text: string): number {
    this.marks = moved(this.marks, this.text, text);
    this.text = text;
    this.typed += 1;
    if (text === "")
      this.shown = this.typed; // nobody needs to be asked
    else this.waiting.set(this.typed, text);
    return this.typed;
  }

  /** The answer to text number `n`, its marks counted in that text. Returns whether it is shown. */
  answered(n: number, marksOfText: (text: string) => Mark[]): boolean {
    const asked = this.waiting.get(n);
    this.waiting.delete(n);
    if (asked === undefined || n <= this.shown) return false;
    this.marks = moved(marksOfText(asked), asked, this.text);
    this.shown = n;
    return true;
  }

  /** Text number `n` will not be answered. */
  gaveUp(n: number): void {
    this.waiting.delete(n);
  }

  /** Whether the marks are those of the newest text. */
  get upToDate(): boolean {
    return this.shown === this.typed;
  }
}
