/**
 * One request for every keystroke, each taking the place of those that still wait. What may be shown is decided by
 * `Latest`; this asks, counts, and asks again for the newest text when its answer has been lost.
 */

import { InferdError } from "../src/index.js";
import { say } from "./dom.js";
import { Latest } from "./latest.js";
import type { Marker } from "./models.js";
import type { Session } from "./session.js";
import { type Mark, marksOf } from "./spans.js";
import { ms, type Strokes } from "./strokes.js";

// All keystrokes share one key, so that of those which wait only the newest is ever computed.
const SUPERSEDE = "text";
const TIMEOUT_MS = 10_000;
// When the newest text is asked for again, if the server does not say.
const RETRY_MS = 500;

interface Shown {
  progress: HTMLElement;
  problem: HTMLElement;
  /** Marks or figures have changed. */
  onChange(): void;
}

export class Writing {
  marker: Marker | undefined;
  private readonly latest = new Latest();
  private retry = 0;

  constructor(
    private readonly session: Session,
    private readonly strokes: Strokes,
    private readonly shown: Shown,
  ) {}

  /** The marks of the text as it is now. */
  get marks(): readonly Mark[] {
    return this.latest.marks;
  }

  /** Asks this model from now on. */
  use(marker: Marker | undefined): void {
    const same = marker?.model === this.marker?.model;
    this.marker = marker;
    if (!same && this.latest.text !== "") this.typed(this.latest.text);
  }

  /** The text has changed. */
  typed(text: string): void {
    clearTimeout(this.retry);
    const n = this.latest.type(text);
    say(this.shown.problem, "");
    if (text !== "" && this.session.isOpen && this.marker !== undefined) void this.ask(n, text, this.marker);
    this.changed();
  }

  /** The connection has changed. What was typed meanwhile is asked for now. */
  follow(): void {
    if (this.session.isOpen && !this.latest.upToDate) this.typed(this.latest.text);
    else this.changed();
  }

  private async ask(n: number, text: string, { model, input }: Marker): Promise<void> {
    this.strokes.send(n, performance.now());
    try {
      const options = { supersede: SUPERSEDE, priority: "interactive", timing: true, timeoutMs: TIMEOUT_MS } as const;
      const result = await this.session.ask(model, { [input]: text }, options);
      this.strokes.answer(n, result.timing, performance.now());
      this.latest.answered(n, (asked) => marksOf(result.outputs["spans"], asked));
    } catch (error) {
      this.failed(n, error);
    }
    this.changed();
  }

  private failed(n: number, error: unknown): void {
    this.latest.gaveUp(n);
    const now = performance.now();
    if (!(error instanceof InferdError)) throw error;
    if (error.reason === "SUPERSEDED") {
      this.strokes.supersede(n, now);
      return;
    }
    this.strokes.fail(n, error.message, now);
    if (n !== this.latest.typed || !this.session.isOpen) return; // a newer one is on its way, or will be
    if (error.retryable || error.code === "DEADLINE_EXCEEDED") {
      this.retry = window.setTimeout(() => this.typed(this.latest.text), error.retryAfterMs ?? RETRY_MS);
    }
    say(this.shown.problem, `${error.message} (${error.reason || error.code})`);
  }

  private changed(): void {
    const { latest, session } = this;
    const { progress } = this.shown;
    const behind = latest.typed - latest.shown;
    const state = latest.text === "" ? "empty" : behind === 0 ? "current" : session.isOpen ? "behind" : "stale";
    const words = {
      empty: "",
      current: `Marked ${ms(this.strokes.newestAnswered?.totalMs ?? 0)} ms after the keystroke`,
      behind: `${behind} ${behind === 1 ? "keystroke" : "keystrokes"} ahead of the marks`,
      stale: "Not marked yet: waiting for the connection",
    };
    progress.dataset["state"] = state;
    progress.dataset["typed"] = String(latest.typed);
    progress.dataset["shown"] = String(latest.shown);
    say(
      progress,
      this.marker === undefined && session.isOpen ? "No model that marks texts is served here." : words[state],
    );
    this.shown.onChange();
  }
}
