/** What became of the last keystrokes: the figures beside the text. Times are in milliseconds. */

/** How many keystrokes are remembered: what the chart has room for. */
export const MAX_STROKES = 120;

export interface Stroke {
  n: number;
  sentAt: number;
  state: "waiting" | "answered" | "superseded" | "failed";
  /** From the keystroke to its answer, or to the word that there will be none. */
  totalMs: number;
  queuedMs: number;
  computeMs: number;
  /** What is left of `totalMs`: the network, the gateway, and the browser, which answers between two frames. */
  wayMs: number;
  batchRows: number;
  released: string;
  /** Why it failed, in the server's words. */
  problem: string;
}

/** The fields of a result's timeline that are drawn. */
export interface Timeline {
  queuedMs?: number | undefined;
  computeMs?: number | undefined;
  batchRows?: number | undefined;
  released?: string | undefined;
}

export class Strokes {
  readonly last: Stroke[] = [];
  /** Since the page was opened. */
  sent = 0;
  answered = 0;
  superseded = 0;
  failed = 0;

  send(n: number, now: number): void {
    const stroke: Stroke = {
      n,
      sentAt: now,
      state: "waiting",
      totalMs: 0,
      queuedMs: 0,
      computeMs: 0,
      wayMs: 0,
      batchRows: 0,
      released: "",
      problem: "",
    };
    this.last.push(stroke);
    if (this.last.length > MAX_STROKES) this.last.shift();
    this.sent += 1;
  }

  answer(n: number, timeline: Timeline | undefined, now: number): void {
    this.answered += 1;
    const stroke = this.settle(n, "answered", now);
    if (stroke === undefined) return;
    stroke.queuedMs = timeline?.queuedMs ?? 0;
    stroke.computeMs = timeline?.computeMs ?? 0;
    stroke.wayMs = Math.max(0, stroke.totalMs - stroke.queuedMs - stroke.computeMs);
    stroke.batchRows = timeline?.batchRows ?? 0;
    stroke.released = timeline?.released ?? "";
  }

  supersede(n: number, now: number): void {
    this.superseded += 1;
    this.settle(n, "superseded", now);
  }

  fail(n: number, problem: string, now: number): void {
    this.failed += 1;
    const stroke = this.settle(n, "failed", now);
    if (stroke !== undefined) stroke.problem = problem;
  }

  /** The keystroke that was answered last, if it is still remembered. */
  get newestAnswered(): Stroke | undefined {
    return this.last.findLast((stroke) => stroke.state === "answered");
  }

  /** The round trip that a share `p` of the answered keystrokes did not exceed, by nearest rank, if there are any. */
  percentile(p: number): number | undefined {
    const times = this.last.filter((stroke) => stroke.state === "answered").map((stroke) => stroke.totalMs);
    times.sort((a, b) => a - b);
    return times[Math.max(0, Math.ceil(p * times.length) - 1)];
  }

  private settle(n: number, state: Stroke["state"], now: number): Stroke | undefined {
    const stroke = this.last.findLast((candidate) => candidate.n === n);
    if (stroke !== undefined) {
      stroke.state = state;
      stroke.totalMs = now - stroke.sentAt;
    }
    return stroke;
  }
}

const RELEASED: Record<string, string> = {
  idle: "device was idle",
  freed: "device became free",
  again: "run again after a failure",
};

/** Why a batch began when it did, for a reader. */
export function releasedWords(released: string): string {
  return RELEASED[released] ?? released;
}

/** Milliseconds with three digits at most: 0.12, 3.4, 27, 1 204. */
export function ms(value: number): string {
  if (value < 1) return value.toFixed(2);
  if (value < 10) return value.toFixed(1);
  return Math.round(value).toLocaleString("en").replaceAll(",", "\u202f");
}

/** One keystroke in a sentence. */
export function strokeWords(stroke: Stroke, now: number): string {
  switch (stroke.state) {
    case "waiting":
      return `waiting for ${ms(now - stroke.sentAt)} ms`;
    case "superseded":
      return `superseded after ${ms(stroke.totalMs)} ms: a newer keystroke took its place`;
    case "failed":
      return `failed after ${ms(stroke.totalMs)} ms: ${stroke.problem}`;
    case "answered":
      return (
        `${ms(stroke.totalMs)} ms: network and browser ${ms(stroke.wayMs)}, queue ${ms(stroke.queuedMs)}, ` +
        `compute ${ms(stroke.computeMs)}; batch of ${stroke.batchRows}, ${releasedWords(stroke.released)}`
      );
  }
}
