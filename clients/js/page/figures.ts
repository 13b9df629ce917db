/** The numbers beside the text. */

import { byId, say } from "./dom.js";
import { ms, releasedWords, type Strokes } from "./strokes.js";

const span = (id: string): HTMLElement => byId(id, HTMLElement);

export class Figures {
  private readonly trip = span("trip");
  private readonly way = span("part-way");
  private readonly queue = span("part-queue");
  private readonly compute = span("part-compute");
  private readonly batch = span("batch");
  private readonly p50 = span("p50");
  private readonly p99 = span("p99");
  private readonly sent = span("sent");
  private readonly superseded = span("superseded");

  constructor(private readonly strokes: Strokes) {}

  update(): void {
    const last = this.strokes.newestAnswered;
    if (last !== undefined) {
      say(this.trip, ms(last.totalMs));
      say(this.way, ms(last.wayMs));
      say(this.queue, ms(last.queuedMs));
      say(this.compute, ms(last.computeMs));
      say(this.batch, `Batch of ${last.batchRows}: ${releasedWords(last.released)}.`);
    }
    say(this.p50, timeOf(this.strokes.percentile(0.5)));
    say(this.p99, timeOf(this.strokes.percentile(0.99)));
    say(this.sent, String(this.strokes.sent));
    say(this.superseded, String(this.strokes.superseded));
  }
}

function timeOf(value: number | undefined): string {
  return value === undefined ? "–" : ms(value);
}
