/**
 * The client's end of the stream, without the stream: chunks of bytes in, whole frames out.
 *
 * A frame over the limits is refused from its prefix, before anything behind it is kept. The header is decoded as soon
 * as it is there; then `wanted` says whether somebody needs the payload, and only then memory is set aside for it. What is
 * kept between two chunks is at most one incomplete prefix and header, and one payload.
 */

import { InferdError, ProtocolError, badValues, fieldValue } from "./errors.js";
import {
  checkMagic,
  DEFAULT_PAYLOAD_BYTES,
  HAS_VALUES,
  isKnownType,
  MAX_HEADER_BYTES,
  PREFIX_BYTES,
  Type,
  typeName,
  unpackPrefix,
} from "./frame.js";
import { parseError, parseResult, parseWelcome, type ResultHeader, type Welcome } from "./messages.js";
import { aligned } from "./tensor.js";

/** A frame that came in. `error` says why its header cannot be used, or its payload does not fit the header. */
export interface Frame {
  type: number;
  credits: number;
  requestId: bigint;
  hasValues: boolean;
  payloadBytes: number;
  /** Empty when nobody wanted it. */
  payload: Uint8Array;
  welcome?: Welcome;
  result?: ResultHeader;
  /** What an ERROR says. */
  failure?: InferdError;
  error?: InferdError;
}

// The law of what a server may say, before WELCOME and after it. An unknown type is skipped once WELCOME was said.
const GREETING: ReadonlySet<number> = new Set([Type.WELCOME, Type.ERROR]);
const OPEN: ReadonlySet<number> = new Set([
  Type.RESULT,
  Type.ERROR,
  Type.PING,
  Type.PONG,
  Type.GOAWAY,
  Type.CREDIT,
  Type.STATUS,
]);

const NOTHING = new Uint8Array(0);

export class Decoder {
  /** The largest payload it takes, in bytes. */
  payloadLimit = DEFAULT_PAYLOAD_BYTES;
  readonly #wanted: (frame: Frame) => boolean;
  #legal = GREETING;
  #ended = false;
  #bytes: Uint8Array = NOTHING; // received and not looked at yet
  #current: Frame | undefined; // whose payload is on the way
  #target: Uint8Array | undefined; // where that goes; undefined: it is read and forgotten
  #filled = 0;

  constructor(wanted: (frame: Frame) => boolean) {
    this.#wanted = wanted;
  }

  /** Takes bytes in. They belong to the decoder from here on: results can be views of them. */
  feed(chunk: Uint8Array): void {
    if (this.#ended || chunk.length === 0) return;
    if (this.#bytes.length === 0) {
      this.#bytes = chunk;
      return;
    }
    const joined = new Uint8Array(this.#bytes.length + chunk.length);
    joined.set(this.#bytes);
    joined.set(chunk, this.#bytes.length);
    this.#bytes = joined;
  }

  /** The next frame; undefined until more bytes are there. Throws ProtocolError once, and takes nothing afterwards. */
  next(): Frame | undefined {
    if (this.#ended) return undefined;
    try {
      this.#current ??= this.#head();
      return this.#current === undefined ? undefined : this.#payload(this.#current);
    } catch (error) {
      this.end();
      throw error;
    }
  }

  /** Takes no more frames. */
  end(): void {
    this.#ended = true;
    this.#bytes = NOTHING;
    this.#current = this.#target = undefined;
  }

  #head(): Frame | undefined {
    const bytes = this.#bytes;
    if (bytes.length < PREFIX_BYTES) {
      checkMagic(bytes);
      return undefined;
    }
    const prefix = unpackPrefix(bytes);
    const { type, headerBytes, payloadBytes } = prefix;
    if (!this.#legal.has(type) && (isKnownType(type) || this.#legal === GREETING)) {
      const when = this.#legal === GREETING ? "before WELCOME" : "in an open conversation";
      throw new ProtocolError(`a server does not send ${typeName(type)} ${when}`);
    }
    if (headerBytes > MAX_HEADER_BYTES || payloadBytes > this.payloadLimit) {
      const limits = `${MAX_HEADER_BYTES} and ${this.payloadLimit}`;
      throw new ProtocolError(
        `a header of ${headerBytes} and a payload of ${payloadBytes} bytes are over the limits of ${limits}`,
      );
    }
    if (bytes.length < PREFIX_BYTES + headerBytes) return undefined;
    const frame: Frame = {
      type,
      credits: prefix.credits,
      requestId: prefix.requestId,
      hasValues: (prefix.flags & HAS_VALUES) !== 0,
      payloadBytes,
      payload: NOTHING,
    };
    this.#bytes = bytes.subarray(PREFIX_BYTES + headerBytes);
    decodeHeader(frame, bytes.subarray(PREFIX_BYTES, PREFIX_BYTES + headerBytes));
    if (type === Type.WELCOME) this.#legal = OPEN;
    const keep = payloadBytes > 0 && frame.error === undefined && this.#wanted(frame);
    const here = payloadBytes <= this.#bytes.length;
    if (keep && here && 2 * payloadBytes >= bytes.buffer.byteLength) {
      // Most of the chunk is this payload: it stays where it lies. A small one is copied, so that it does not keep a
      // large chunk alive, and that puts its tensors in places where they can be viewed.
      frame.payload = this.#bytes.subarray(0, payloadBytes);
      this.#target = undefined;
    } else {
      this.#target = keep ? new Uint8Array(payloadBytes) : undefined;
    }
    this.#filled = 0;
    return frame;
  }

  #payload(frame: Frame): Frame | undefined {
    const count = Math.min(this.#bytes.length, frame.payloadBytes - this.#filled);
    this.#target?.set(this.#bytes.subarray(0, count), this.#filled);
    this.#filled += count;
    this.#bytes = this.#bytes.length === count ? NOTHING : this.#bytes.subarray(count);
    if (this.#filled < frame.payloadBytes) return undefined;
    if (this.#target !== undefined) frame.payload = this.#target;
    this.#current = this.#target = undefined;
    return frame;
  }
}

/** Fills in what the header says. Throws ProtocolError when it is no header at all. */
function decodeHeader(frame: Frame, header: Uint8Array): void {
  try {
    if (frame.type === Type.WELCOME) {
      frame.welcome = parseWelcome(header);
    } else if (frame.type === Type.RESULT) {
      frame.result = parseResult(header);
      checkFit(frame.result.tensorEnd, frame);
    } else if (frame.type === Type.ERROR) {
      frame.failure = parseError(header, Number(frame.requestId));
    }
    // The other messages' fields are not needed, and a message of a later version may be anything.
  } catch (error) {
    if (!(error instanceof InferdError) || error instanceof ProtocolError) throw error;
    frame.error = error;
  }
}

/** The tensors fill the payload; or values of at least one byte follow them, from the next multiple of 64. */
function checkFit(tensorEnd: number, frame: Frame): void {
  if (frame.hasValues) {
    const start = aligned(tensorEnd);
    if (frame.payloadBytes <= start)
      throw badValues(`would begin at ${start}, but the payload has ${frame.payloadBytes} bytes`);
  } else if (frame.payloadBytes !== tensorEnd) {
    throw fieldValue("payload", `has ${frame.payloadBytes} bytes and its tensors end at ${tensorEnd}`);
  }
}
