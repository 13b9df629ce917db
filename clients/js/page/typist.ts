/** Types an example as a person would, so that what happens with every keystroke can be watched. */

import { say } from "./dom.js";
import type { Editor } from "./editor.js";

const EXAMPLE =
  "Ada Lovelace met Charles Babbage in London in 1833. Grace Hopper taught at Vassar College and later joined " +
  "the Navy in New York. Tim Berners-Lee wrote the first browser at CERN, near Geneva, in 1990. ";
// A quick typist's pace: about eleven keystrokes a second, and no two pauses alike.
const PAUSE_MS = 60;
const SPREAD_MS = 60;

export class Typist {
  private timer = 0;

  constructor(
    private readonly button: HTMLButtonElement,
    private readonly editor: Editor,
  ) {
    button.addEventListener("click", () => (this.timer === 0 ? this.type([...EXAMPLE]) : this.stop()));
  }

  private type(rest: string[]): void {
    const [next, ...later] = rest;
    if (next === undefined) {
      this.stop();
      return;
    }
    say(this.button, "Stop typing");
    this.editor.append(next);
    this.timer = window.setTimeout(() => this.type(later), PAUSE_MS + Math.random() * SPREAD_MS);
  }

  private stop(): void {
    clearTimeout(this.timer);
    this.timer = 0;
    say(this.button, "Type an example");
  }
}
