/**
 * A server that is a part of the test, and the world around a client: a clock that is set, and links that are bytes
 * handed over. It reads and writes the wire by itself, with nothing of the client's but the place of a tensor.
 */

import { decode, encode } from "@msgpack/msgpack";
import {
  Client,
  Tensor,
  type ClientOptions,
  type Dtype,
  type Environment,
  type Transport,
  type TransportEvents,
} from "../src/index.js";
import { aligned, layout, parseTable, tensorIn } from "../src/tensor.js";
import { until } from "./expect.js";

export const Wire = {
  HELLO: 1,
  WELCOME: 2,
  INFER: 3,
  RESULT: 4,
  ERROR: 5,
  CANCEL: 6,
  PING: 7,
  PONG: 8,
  GOAWAY: 9,
  CREDIT: 10,
  STATUS: 11,
} as const;

export interface FrameOptions {
  id?: bigint;
  header?: object;
  payload?: Uint8Array;
  hasValues?: boolean;
  credits?: number;
}

/** The bytes of a frame. */
export function frame(
  type: number,
  { id = 0n, header, payload = new Uint8Array(0), hasValues = false, credits = 0 }: FrameOptions = {},
): Uint8Array {
  const packed = header === undefined ? new Uint8Array(0) : encode(header, { useBigInt64: true });
  const bytes = new Uint8Array(24 + packed.length + payload.length);
  const view = new DataView(bytes.buffer);
  bytes.set([0xf1, 0x6e, 0x66, 1, type, hasValues ? 1 : 0]);
  view.setUint16(6, credits, true);
  view.setUint32(8, packed.length, true);
  view.setUint32(12, payload.length, true);
  view.setBigUint64(16, id, true);
  bytes.set(packed, 24);
  bytes.set(payload, 24 + packed.length);
  return bytes;
}

export interface Read {
  type: number;
  id: bigint;
  hasValues: boolean;
  header: Record<string, any>;
  payload: Uint8Array;
}

/** The frames that `bytes` hold whole, and how many bytes they are. */
export function readFrames(bytes: Uint8Array): [Read[], number] {
  const frames: Read[] = [];
  let at = 0;
  while (bytes.length - at >= 24) {
    const view = new DataView(bytes.buffer, bytes.byteOffset + at);
    const headerEnd = 24 + view.getUint32(8, true);
    const end = headerEnd + view.getUint32(12, true);
    if (bytes.length - at < end) break;
    frames.push({
      type: view.getUint8(4),
      id: view.getBigUint64(16, true),
      hasValues: view.getUint8(5) === 1,
      header: headerEnd === 24 ? {} : (decode(bytes.subarray(at + 24, at + headerEnd)) as Record<string, any>),
      payload: bytes.slice(at + headerEnd, at + end),
    });
    at += end;
  }
  return [frames, at];
}

export type Data = Record<string, any>;
export type Model = (inputs: Data, request: Read) => Data | Promise<Data>;

/** What a model throws to fail a request. */
export class Refusal {
  constructor(readonly header: object) {}
}

/** The data of an INFER or RESULT. */
export function unpackData({ header, payload, hasValues }: Read): Data {
  const [table, end] = parseTable(header["inputs"] ?? header["outputs"], "table");
  const data: Data = Object.fromEntries(table.map((row) => [row.name, tensorIn(payload, row)]));
  return hasValues ? { ...data, ...(decode(payload.subarray(aligned(end)), { useBigInt64: true }) as Data) } : data;
}

/** A RESULT with these outputs. */
export function resultFrame(id: bigint, outputs: Data, credits: number, timing?: object): Uint8Array {
  const tensors = Object.entries(outputs).filter((entry): entry is [string, Tensor] => entry[1] instanceof Tensor);
  const values = Object.entries(outputs).filter(([, value]) => !(value instanceof Tensor));
  const [table, end] = layout(tensors);
  const segment = values.length > 0 ? encode(Object.fromEntries(values), { useBigInt64: true }) : undefined;
  const payload = new Uint8Array(segment === undefined ? end : aligned(end) + segment.length);
  tensors.forEach(([, { data }], i) =>
    payload.set(new Uint8Array(data.buffer, data.byteOffset, data.byteLength), table[i]!.offset),
  );
  if (segment !== undefined) payload.set(segment, aligned(end));
  const rows = table.map(({ name, dtype, shape, offset }): [string, Dtype, number[], number] => [
    name,
    dtype,
    [...shape],
    offset,
  ]);
  return frame(Wire.RESULT, {
    id,
    payload,
    credits,
    hasValues: segment !== undefined,
    header: { ...(rows.length > 0 ? { outputs: rows } : {}), ...(timing ? { timing } : {}) },
  });
}

const TIMELINE = {
  queued_ms: 0,
  compute_ms: 1.5,
  total_ms: 2,
  batch_id: 1,
  batch_rows: 1,
  padded: 0,
  released: "idle",
};

/** Time that passes when it is told to. */
export class FakeClock {
  now = 1000;
  #timers = new Map<number, { at: number; callback: () => void }>();
  #last = 0;

  set(callback: () => void, ms: number): number {
    this.#timers.set(++this.#last, { at: this.now + ms, callback });
    return this.#last;
  }

  clear(timer: unknown): void {
    this.#timers.delete(timer as number);
  }

  get pending(): number {
    return this.#timers.size;
  }

  /** Lets `ms` pass; timers fire in their order. */
  advance(ms: number): void {
    const end = this.now + ms;
    for (;;) {
      const [next] = [...this.#timers].filter(([, timer]) => timer.at <= end).sort(([, a], [, b]) => a.at - b.at);
      if (next === undefined) break;
      this.#timers.delete(next[0]);
      this.now = next[1].at;
      next[1].callback();
    }
    this.now = end;
  }
}

export class FakeServer {
  readonly clock = new FakeClock();
  readonly requests: Read[] = [];
  readonly hellos: Read[] = [];
  readonly cancelled: bigint[] = [];
  readonly pongs: bigint[] = [];
  connections = 0;
  /** Attempts to connect, those that failed included. */
  attempts = 0;
  up = true;
  /** What a new connection hears instead of WELCOME. */
  opening: Uint8Array | undefined;
  /** Whether the links are full: nothing more is taken. */
  congested = false;
  random = 0.5;
  models: Record<string, Model> = {
    echo: (inputs) => inputs,
    double: ({ x }) => ({
      y: new Tensor(
        x.dtype,
        x.shape,
        x.data.map((item: number) => 2 * item),
      ),
    }),
    held: (inputs) => new Promise((resolve) => this.#held.push(() => resolve(inputs))),
    refuse: ({ header }) => {
      throw new Refusal(header);
    },
  };
  readonly #held: (() => void)[] = [];
  readonly #sessions = new Set<Session>();

  constructor(
    public credits = 64,
    readonly payloadBytes = 64 * 1024 * 1024,
    readonly piece = Infinity,
  ) {}

  /** A client of this server. */
  client(options: ClientOptions = {}): Client {
    return new Client("inferd://there:1", options, this.environment());
  }

  environment(): Environment {
    const { clock } = this;
    return {
      now: () => clock.now,
      setTimer: (callback, ms) => clock.set(callback, ms),
      clearTimer: (timer) => clock.clear(timer),
      random: () => this.random,
      dial: async (_, events) => {
        this.attempts++;
        if (!this.up) throw new Error("connection refused");
        this.connections++;
        const session = new Session(this, events);
        this.#sessions.add(session);
        return session;
      },
    };
  }

  /** Lets the models that are held answer. */
  release(): void {
    for (const release of this.#held.splice(0)) release();
  }

  /** Waits until as many requests have come. */
  received(count: number): Promise<void> {
    return until(() => this.requests.length >= count, `${count} requests, there are ${this.requests.length}`);
  }

  /** Sends bytes to every client that is connected. */
  say(bytes: Uint8Array): void {
    for (const session of this.#sessions) session.say(bytes);
  }

  goaway(): void {
    this.say(frame(Wire.GOAWAY, { header: { reason: "DRAINING" }, credits: this.credits }));
  }

  grant(credits: number): void {
    this.credits = credits;
    this.say(frame(Wire.CREDIT, { credits }));
  }

  /** Ends every connection without a word. */
  drop(): void {
    for (const session of [...this.#sessions]) session.end();
  }

  /** From here on nothing is taken from the connections there are, or said on them, and nothing closes them. */
  freeze(): void {
    for (const session of this.#sessions) session.frozen = true;
  }

  get open(): number {
    return this.#sessions.size;
  }

  uncongested(): void {
    this.congested = false;
    for (const session of this.#sessions) session.events.onWritable();
  }

  left(session: Session): void {
    this.#sessions.delete(session);
  }
}

class Session implements Transport {
  readonly #server: FakeServer;
  readonly #unanswered = new Set<bigint>();
  #bytes = new Uint8Array(0);
  frozen = false;

  constructor(
    server: FakeServer,
    readonly events: TransportEvents,
  ) {
    this.#server = server;
  }

  get congested(): boolean {
    return this.#server.congested;
  }

  send(parts: readonly Uint8Array[]): void {
    if (this.frozen) return;
    for (const part of parts) {
      const joined = new Uint8Array(this.#bytes.length + part.length);
      joined.set(this.#bytes);
      joined.set(part, this.#bytes.length);
      this.#bytes = joined;
    }
    const [frames, used] = readFrames(this.#bytes);
    this.#bytes = this.#bytes.slice(used);
    for (const read of frames) void this.#onFrame(read);
  }

  close(): void {
    this.#server.left(this);
  }

  end(): void {
    this.close();
    this.events.onEnd("");
  }

  /** Hands bytes to the client in the server's pieces, each in memory of its own. */
  say(bytes: Uint8Array): void {
    if (this.frozen) return;
    for (let at = 0; at < bytes.length; at += this.#server.piece) {
      this.events.onBytes(bytes.slice(at, Math.min(at + this.#server.piece, bytes.length)));
    }
  }

  async #onFrame(read: Read): Promise<void> {
    const server = this.#server;
    await Promise.resolve(); // an answer never comes while the question is being sent
    const { credits } = server;
    if (read.type === Wire.HELLO) {
      server.hellos.push(read);
      if (server.opening !== undefined) return this.say(server.opening);
      const models = Object.keys(server.models).map((name) => ({
        name,
        inputs: null,
        outputs: null,
        max_batch_size: 8,
      }));
      const limits = { payload_bytes: server.payloadBytes, in_flight: 1024 };
      this.say(
        frame(Wire.WELCOME, {
          header: { version: 1, server: "fake", limits },
          payload: encode({ models }),
          hasValues: true,
          credits,
        }),
      );
    } else if (read.type === Wire.STATUS) {
      this.say(frame(Wire.STATUS, { id: read.id, payload: encode({ queued: 3 }), hasValues: true, credits }));
    } else if (read.type === Wire.PONG) {
      server.pongs.push(read.id);
    } else if (read.type === Wire.CANCEL) {
      server.cancelled.push(read.id);
      this.#fail(read.id, {
        code: "CANCELLED",
        reason: "CLIENT_CANCELLED",
        message: "the caller cancelled the request",
      });
    } else {
      await this.#infer(read);
    }
  }

  async #infer(read: Read): Promise<void> {
    const server = this.#server;
    this.#unanswered.add(read.id);
    server.requests.push(read);
    const model = server.models[read.header["model"] as string];
    if (model === undefined) {
      const message = `no model '${read.header["model"]}' is served here`;
      return this.#fail(read.id, { code: "NOT_FOUND", reason: "MODEL_NOT_FOUND", message });
    }
    try {
      const outputs = await model(unpackData(read), read);
      const timing = read.header["timing"] ? { ...TIMELINE, batch_rows: read.header["rows"] ?? 1 } : undefined;
      if (this.#unanswered.delete(read.id)) this.say(resultFrame(read.id, outputs, server.credits, timing));
    } catch (error) {
      if (!(error instanceof Refusal)) throw error;
      this.#fail(read.id, error.header);
    }
  }

  #fail(id: bigint, header: object): void {
    if (this.#unanswered.delete(id)) this.say(frame(Wire.ERROR, { id, header, credits: this.#server.credits }));
  }
}
