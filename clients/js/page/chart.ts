/** The last keystrokes as columns: where the time of each went. Drawn on a canvas, one column for each. */

import { say } from "./dom.js";
import { ms, type Stroke, strokeWords } from "./strokes.js";

// In CSS pixels. A column and its gap are at least this wide: which is which the readout says.
const MIN_PITCH = 3;
const MAX_PITCH = 6;
const TOP = 14; // room for the uppermost label
const LANE = 10; // below the axis: what was not answered
const EMPTY_MS = 20; // the scale before there is an answer
const LABEL_FONT = "11px system-ui, sans-serif";
// The scales there are, times a power of ten: each has a half that is easy to read.
const STEPS = [1, 2, 3, 4, 6, 8, 10];

/** The smallest round number of milliseconds that `value` fits under. */
export function roundUp(value: number): number {
  const power = 10 ** Math.floor(Math.log10(value));
  return (STEPS.find((step) => value <= step * power * 1.0001) ?? 10) * power;
}

export class Chart {
  private chosen: number | undefined; // the number of a keystroke
  private drawing = 0;
  private readonly pen: CanvasRenderingContext2D;

  constructor(
    private readonly box: HTMLElement,
    private readonly canvas: HTMLCanvasElement,
    private readonly readout: HTMLElement,
    private readonly strokes: readonly Stroke[],
  ) {
    this.pen = canvas.getContext("2d")!;
    new ResizeObserver(() => this.update()).observe(box);
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this.update());
    box.addEventListener("pointermove", (event) => this.choose(this.at(event.clientX)));
    box.addEventListener("pointerdown", (event) => this.choose(this.at(event.clientX)));
    // A finger that is lifted leaves what it chose; a mouse that goes away does not.
    box.addEventListener("pointerleave", (event) => event.pointerType === "mouse" && this.choose(undefined));
    box.addEventListener("focus", () => this.choose(this.chosen ?? this.strokes.at(-1)?.n));
    box.addEventListener("blur", () => this.choose(undefined));
    box.addEventListener("keydown", (event) => this.onKey(event));
    this.update();
  }

  /** The keystrokes have changed: draws them before the next frame is shown. */
  update(): void {
    if (this.drawing === 0) {
      this.drawing = requestAnimationFrame(() => {
        this.drawing = 0;
        this.draw();
        this.tell();
      });
    }
  }

  private choose(n: number | undefined): void {
    if (n === this.chosen) return;
    this.chosen = n;
    this.update();
  }

  private onKey(event: KeyboardEvent): void {
    const visible = this.visible;
    if (visible.length === 0) return;
    const at = visible.findIndex((stroke) => stroke.n === this.chosen);
    const last = visible.length - 1;
    const next: Record<string, number> = {
      ArrowLeft: (at < 0 ? last : at) - 1,
      ArrowDown: (at < 0 ? last : at) - 1,
      ArrowRight: at + 1,
      ArrowUp: at + 1,
      PageDown: at - 10,
      PageUp: at + 10,
      Home: 0,
      End: last,
    };
    const wanted = next[event.key];
    if (wanted === undefined) return;
    event.preventDefault();
    this.choose(visible[Math.min(last, Math.max(0, wanted))]!.n);
  }

  private get pitch(): number {
    return Math.min(MAX_PITCH, Math.max(MIN_PITCH, Math.floor(this.box.clientWidth / 120)));
  }

  /** The keystrokes there is room for. */
  private get visible(): readonly Stroke[] {
    return this.strokes.slice(-Math.floor(this.box.clientWidth / this.pitch));
  }

  /** The number of the keystroke whose column is at this horizontal place of the window. */
  private at(clientX: number): number | undefined {
    const fromRight = Math.floor((this.box.getBoundingClientRect().right - clientX) / this.pitch);
    return this.visible.at(-1 - Math.max(0, fromRight))?.n;
  }

  private draw(): void {
    const { pen, canvas, pitch, visible } = this;
    const width = this.box.clientWidth;
    const height = this.box.clientHeight;
    const scale = devicePixelRatio || 1;
    if (canvas.width !== Math.round(width * scale) || canvas.height !== Math.round(height * scale)) {
      canvas.width = Math.round(width * scale);
      canvas.height = Math.round(height * scale);
    }
    pen.setTransform(scale, 0, 0, scale, 0, 0);
    pen.clearRect(0, 0, width, height);

    const style = getComputedStyle(this.box);
    const colour = (name: string): string => style.getPropertyValue(`--${name}`).trim();
    const axis = height - LANE;
    const times = visible.filter((stroke) => stroke.state === "answered").map((stroke) => stroke.totalMs);
    const top = times.length === 0 ? EMPTY_MS : roundUp(Math.max(...times));
    const perMs = (axis - TOP) / top;

    pen.font = LABEL_FONT;
    pen.lineWidth = 1;
    for (const share of [0, 0.5, 1]) {
      const y = Math.round(axis - share * (axis - TOP)) - 0.5;
      pen.strokeStyle = colour(share === 0 ? "line-strong" : "line");
      pen.beginPath();
      pen.moveTo(0, y);
      pen.lineTo(width, y);
      pen.stroke();
    }

    visible.forEach((stroke, index) => {
      const x = width - (visible.length - index) * pitch;
      const chosen = stroke.n === this.chosen;
      if (chosen) {
        pen.fillStyle = colour("line");
        pen.fillRect(x - 0.5, 0, pitch, height);
      }
      if (stroke.state === "answered") {
        let y = axis - 1;
        const parts = { compute: stroke.computeMs, queue: stroke.queuedMs, way: stroke.wayMs };
        for (const [part, partMs] of Object.entries(parts)) {
          const length = partMs * perMs;
          pen.fillStyle = colour(part);
          pen.fillRect(x, y - length, pitch - 1, length);
          y -= length;
        }
      } else {
        pen.fillStyle = colour({ waiting: "line-strong", superseded: "muted", failed: "bad" }[stroke.state]);
        const length = stroke.state === "waiting" ? 2 : LANE - 3;
        pen.fillRect(x, axis + 2, pitch - 1, length);
      }
    });

    // Over the columns, with an edge in the colour of the paper, so that they can always be read.
    pen.strokeStyle = colour("paper");
    pen.lineWidth = 4;
    pen.lineJoin = "round";
    for (const share of [0.5, 1]) {
      const y = Math.round(axis - share * (axis - TOP));
      const label = `${ms(top * share)} ms`;
      pen.strokeText(label, 0, y - 4);
      pen.fillStyle = colour("ink");
      pen.fillText(label, 0, y - 4);
    }
  }

  /** Says which keystroke is chosen: below the chart, and to a screen reader. */
  private tell(): void {
    const chosen = this.strokes.find((stroke) => stroke.n === this.chosen);
    const first = this.strokes[0];
    const last = this.strokes.at(-1);
    const words = chosen === undefined ? "" : `Keystroke ${chosen.n}: ${strokeWords(chosen, performance.now())}.`;
    say(
      this.readout,
      words ||
        (last === undefined
          ? ""
          : "Ticks below the line: a newer keystroke came first, and these were never computed."),
    );
    this.box.ariaValueMin = String(first?.n ?? 0);
    this.box.ariaValueMax = String(last?.n ?? 0);
    this.box.ariaValueNow = String(chosen?.n ?? last?.n ?? 0);
    this.box.ariaValueText = words || (last === undefined ? "No keystroke yet" : `${this.strokes.length} keystrokes`);
  }
}
