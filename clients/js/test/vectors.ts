/** The byte-exact frames of tests/vectors/frames.json: those from the server are read, those to it are made. */

import book from "../../../tests/vectors/frames.json";
import { Call } from "../src/call.js";
import {
  decodeOutputs,
  decodeValues,
  encodeRequest,
  headerOf,
  type InputValue,
  type Inputs,
  type Priority,
} from "../src/codec.js";
import { Conversation, type Event } from "../src/conversation.js";
import { Decoder, type Frame } from "../src/decoder.js";
import { ProtocolError, Tensor, type Dtype } from "../src/index.js";
import { HAS_VALUES, packHead, Type, unpackPrefix } from "../src/frame.js";
import { packHello, unpackHeader } from "../src/messages.js";
import { tensorIn, parseTable, aligned } from "../src/tensor.js";
import { equal, expect, fails, type Behaviour } from "./expect.js";
import { frame, readFrames, Wire } from "./fake-server.js";

interface Vector {
  name: string;
  direction: string;
  hex: string;
  meaning: {
    type: keyof typeof Type;
    flags: number;
    credits: number;
    request_id: number;
    header: Record<string, any>;
    payload: string;
    values: Record<string, InputValue> | null;
  };
}

// RELOAD is the operator's command line's: this client neither asks for it nor knows its name.
const VECTORS = (book.frames as unknown as Vector[]).filter(({ meaning }) => (meaning.type as string) !== "RELOAD");
// What a server takes and this client does not write: fields of later versions, gaps between tensors.
const RECEIVED_ONLY = ["infer_fields_of_later_versions", "infer_gap"];
const GREETING = frame(Wire.WELCOME, { header: { version: 1 } });
const PING = frame(Wire.PING, { id: 99n, header: { x: "later" } });

function unhex(hex: string): Uint8Array {
  return Uint8Array.from(hex.match(/../g) ?? [], (byte) => parseInt(byte, 16));
}

/** A request id that JSON has rounded is the one in the bytes. */
function idIn(bytes: Uint8Array): bigint {
  return new DataView(bytes.buffer).getBigUint64(16, true);
}

/** The frames that a decoder makes of `bytes`, fed in pieces. */
function decoded(decoder: Decoder, bytes: Uint8Array, piece: number): Frame[] {
  const frames: Frame[] = [];
  for (let at = 0; at < bytes.length; at += piece) {
    decoder.feed(bytes.slice(at, Math.min(at + piece, bytes.length)));
    for (let next = decoder.next(); next !== undefined; next = decoder.next()) frames.push(next);
  }
  return frames;
}

function opened(vector: { meaning?: { type: string } }): Decoder {
  const decoder = new Decoder(() => true);
  if (vector.meaning?.type !== "WELCOME") decoded(decoder, GREETING, Infinity);
  return decoder;
}

/** The tensors that a table describes, out of a payload. */
function tensorsOf(rows: unknown, payload: Uint8Array): Record<string, Tensor> {
  return Object.fromEntries(parseTable(rows, "inputs")[0].map((row) => [row.name, tensorIn(payload, row)]));
}

function bytesOf(tensor: Tensor): Uint8Array {
  return new Uint8Array(tensor.data.buffer, tensor.data.byteOffset, tensor.data.byteLength);
}

function checkFrame(got: Frame, vector: Vector): void {
  const { meaning, name } = vector;
  const { header } = meaning;
  equal(got.error, undefined, name);
  equal(
    [got.type, got.credits, got.requestId, got.hasValues],
    [Type[meaning.type], meaning.credits, idIn(unhex(vector.hex)), meaning.flags === HAS_VALUES],
    name,
  );
  equal(new Uint8Array(got.payload), unhex(meaning.payload), name);
  if (meaning.type === "RESULT") {
    const outputs = decodeOutputs(got.result!, got.hasValues, got.payload);
    const rows = (header["outputs"] ?? []) as [string, Dtype, number[], number][];
    equal(Object.keys(outputs), [...rows.map(([output]) => output), ...Object.keys(meaning.values ?? {})], name);
    for (const [output, dtype, shape, offset] of rows) {
      const tensor = outputs[output];
      expect(tensor instanceof Tensor, `${output} is a tensor`);
      equal([tensor.dtype, [...tensor.shape]], [dtype, shape], output);
      equal(
        new Uint8Array(bytesOf(tensor)),
        unhex(meaning.payload).slice(offset, offset + tensor.data.byteLength),
        output,
      );
    }
    for (const [output, value] of Object.entries(meaning.values ?? {})) equal(outputs[output], value, output);
    equal(got.result!.timing, header["timing"], name);
  } else if (meaning.values !== null) {
    equal(decodeValues(got.payload), meaning.values, name);
  }
  if (meaning.type === "WELCOME") equal(got.welcome, { server: header["server"], limits: header["limits"] }, name);
  if (meaning.type === "ERROR") {
    const { code, reason, message, retryable, retryAfterMs } = got.failure!;
    const said = {
      code,
      reason,
      message,
      retryable,
      ...(retryAfterMs === undefined ? {} : { retry_after_ms: retryAfterMs }),
    };
    equal(said, header, name);
  }
}

/** The bytes that this client writes for a meaning. */
function encoded({ meaning, hex }: Vector): Uint8Array {
  const { header } = meaning;
  const id = idIn(unhex(hex));
  if (meaning.type === "HELLO") return packHead(Type.HELLO, id, packHello(header["client"], undefined));
  if (meaning.type !== "INFER") return packHead(Type[meaning.type], id, new Uint8Array(0));
  const inputs: Inputs = { ...tensorsOf(header["inputs"], unhex(meaning.payload)), ...meaning.values };
  const request = encodeRequest(header["model"], inputs, {
    rows: header["rows"],
    priority: header["priority"] as Priority,
    supersede: header["supersede"],
    timing: header["timing"],
  });
  const packed = headerOf(request, header["deadline_ms"]);
  const head = packHead(Type.INFER, id, packed, request.payloadBytes, meaning.values === null ? 0 : HAS_VALUES);
  const bytes = new Uint8Array(head.length + request.payloadBytes);
  bytes.set(head);
  let at = head.length;
  for (const piece of request.pieces) {
    bytes.set(piece, at);
    at += piece.length;
  }
  return bytes;
}

const reading: Behaviour[] = VECTORS.filter((vector) => vector.direction === "server->client").map((vector) => ({
  name: `${vector.name} means what it says: whole, byte by byte, in odd pieces, and with a tail behind it`,
  run() {
    const bytes = unhex(vector.hex);
    for (const piece of [Infinity, 1, 7, 25]) {
      for (const tail of [0, 1, 24, 30]) {
        const decoder = opened(vector);
        const both = new Uint8Array([...bytes, ...PING.subarray(0, tail)]);
        const [got, ...more] = decoded(decoder, both, piece);
        checkFrame(got!, vector);
        equal(more.length, 0);
        const [ping] = decoded(decoder, PING.slice(tail), piece);
        equal([ping!.type, ping!.requestId], [Type.PING, 99n]);
      }
    }
  },
}));

const writing: Behaviour[] = VECTORS.filter(
  ({ direction, name }) => direction === "client->server" && !RECEIVED_ONLY.includes(name),
).map((vector) => ({
  name: `${vector.name} is what this side writes for its meaning`,
  run() {
    const { meaning, name } = vector;
    const bytes = encoded(vector);
    const [[read], used] = readFrames(bytes);
    equal(used, bytes.length);
    equal(
      [read!.type, read!.id, read!.hasValues],
      [Type[meaning.type], idIn(unhex(vector.hex)), meaning.flags === HAS_VALUES],
    );
    equal(read!.header, meaning.header, name);
    // The payload's tensors are the same bytes; the values mean the same, for msgpack has several ways to say a number.
    const [, end] = parseTable(meaning.header["inputs"], "inputs");
    equal(read!.payload.slice(0, end), unhex(meaning.payload).slice(0, end), name);
    if (meaning.values !== null) equal(decodeValues(read!.payload.subarray(aligned(end))), meaning.values, name);
    else equal(read!.payload.length, end);
  },
}));

const whole: Behaviour[] = [
  {
    name: "the server's frames are one conversation, two at a time and in every other cut",
    run() {
      const said = VECTORS.filter(
        ({ direction, name }) => direction === "server->client" && name !== "error_ends_the_connection",
      );
      const bytes = new Uint8Array(said.flatMap(({ hex }) => [...unhex(hex)]));
      for (const piece of [Infinity, 1, 3, 64, 111, 1000]) {
        const frames = decoded(new Decoder(() => true), bytes, piece);
        equal(frames.length, said.length);
        frames.forEach((got, i) => checkFrame(got, said[i]!));
      }
    },
  },
  {
    name: "the prefix read by hand is the prefix",
    run() {
      for (const { hex, meaning } of VECTORS) {
        const prefix = unpackPrefix(unhex(hex));
        equal([prefix.type, prefix.flags, prefix.credits], [Type[meaning.type], meaning.flags, meaning.credits]);
        equal(prefix.headerBytes + prefix.payloadBytes + 24, hex.length / 2);
        equal(
          prefix.headerBytes === 0 ? {} : unpackHeader(unhex(hex).subarray(24, 24 + prefix.headerBytes)),
          meaning.header,
        );
      }
    },
  },
];

const refusing: Behaviour[] = book.refused
  .filter(({ direction }) => direction === "server->client")
  .map((vector) => ({
    name: `${vector.name} ${vector.outcome}: ${vector.why}`,
    async run() {
      for (const piece of [Infinity, 1, 7]) {
        const conversation = new Conversation("there", "test", undefined);
        conversation.received(GREETING.slice());
        const call = new Call(Type.INFER, 1000, 1000, () => {}, encodeRequest("echo", {}));
        conversation.send(call, 0);
        const bytes = unhex(vector.hex);
        const events: Event[] = [];
        for (let at = 0; at < bytes.length; at += piece) {
          events.push(...conversation.received(bytes.slice(at, Math.min(at + piece, bytes.length))));
        }
        if (vector.outcome === "skipped") {
          equal(events, []);
          conversation.outbox.length = 0;
          conversation.received(PING.slice());
          equal(conversation.outbox, [packHead(Type.PONG, 99n, new Uint8Array(0))]);
        } else {
          const failed = events.find((event) => event.type === "failed");
          expect(failed?.type === "failed" && failed.call === call, "what was sent has failed");
          await fails(Promise.reject(failed.error), ProtocolError);
          expect(conversation.closed, "the conversation is over");
        }
      }
    },
  }));

export const vectors: Behaviour[] = [...reading, ...writing, ...whole, ...refusing];
