/**
 * The frame: a fixed prefix, a header, a payload. Numbers in the prefix are little-endian.
 *
 *     0         3    4     5      6         8              12             16            24
 *     ├─────────┼────┼─────┼──────┼─────────┼──────────────┼──────────────┼─────────────┤
 *     │ f1 6e 66│ ver│ type│ flags│ credits │ header bytes │ payload bytes│ request id  │
 */

import { ProtocolError } from "./errors.js";

export const PREFIX_BYTES = 24;
export const FRAME_VERSION = 1;

export const Type = {
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

const NAMES = new Map<number, string>(Object.entries(Type).map(([name, type]) => [type, name]));

/** The name of a message type; its number for one that this version does not know. */
export function typeName(type: number): string {
  return NAMES.get(type) ?? String(type);
}

export function isKnownType(type: number): boolean {
  return NAMES.has(type);
}

/** The flag that says: the payload ends with a msgpack values segment. */
export const HAS_VALUES = 1;

/** The largest header that either side takes, in bytes. */
export const MAX_HEADER_BYTES = 16 * 1024;
/** The largest payload of either side until WELCOME has said more, in bytes. */
export const DEFAULT_PAYLOAD_BYTES = 64 * 1024 * 1024;

export interface Prefix {
  type: number;
  flags: number;
  /** How many requests may be unanswered on this connection; 0 says nothing. */
  credits: number;
  headerBytes: number;
  payloadBytes: number;
  requestId: bigint;
}

/** The prefix and header of a frame; its payload is written right behind. */
export function packHead(type: number, requestId: bigint, header: Uint8Array, payloadBytes = 0, flags = 0): Uint8Array {
  const head = new Uint8Array(PREFIX_BYTES + header.length);
  const view = new DataView(head.buffer);
  head.set([0xf1, 0x6e, 0x66, FRAME_VERSION, type, flags]);
  view.setUint32(8, header.length, true);
  view.setUint32(12, payloadBytes, true);
  view.setBigUint64(16, requestId, true);
  head.set(header, PREFIX_BYTES);
  return head;
}

/** Reads 24 bytes. Throws ProtocolError when they do not open a frame of this version. */
export function unpackPrefix(bytes: Uint8Array): Prefix {
  checkMagic(bytes);
  const version = bytes[3];
  if (version !== FRAME_VERSION) throw new ProtocolError(`frame version ${version} is not ${FRAME_VERSION}`);
  const view = new DataView(bytes.buffer, bytes.byteOffset, PREFIX_BYTES);
  return {
    type: view.getUint8(4),
    flags: view.getUint8(5),
    credits: view.getUint16(6, true),
    headerBytes: view.getUint32(8, true),
    payloadBytes: view.getUint32(12, true),
    requestId: view.getBigUint64(16, true),
  };
}

const MAGIC = [0xf1, 0x6e, 0x66];
const STRANGERS: [RegExp, string][] = [
  [/^(HTTP|GET |POST)/, "HTTP"],
  [/^SSH/, "SSH"],
  [/^[\x15\x16]\x03/, "TLS"],
];

/** Throws ProtocolError when a frame cannot begin with `bytes`, of which there may be fewer than a prefix has. */
export function checkMagic(bytes: Uint8Array): void {
  if (MAGIC.every((byte, i) => i >= bytes.length || bytes[i] === byte)) return;
  const start = String.fromCharCode(...bytes.subarray(0, 4));
  const looksLike = STRANGERS.find(([pattern]) => pattern.test(start))?.[1] ?? "another protocol";
  throw new ProtocolError(`not an inferd frame (it must open with f1 6e 66); it looks like ${looksLike}`);
}
