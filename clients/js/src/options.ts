/** What a client may be told, and what it answers. */

import type { Outputs, RequestOptions } from "./codec.js";
import { fieldType, fieldValue } from "./errors.js";
import { isWellFormed, type Value } from "./msgpack.js";
import type { WebSocketClass } from "./transport.js";

export interface ClientOptions {
  /** The credential, where the server wants one. It is never shown. */
  token?: string | undefined;
  /** What the client calls itself, for the server's log. */
  name?: string | undefined;
  /** What one attempt to connect may take, in milliseconds, more than 0; 5,000 by default. */
  connectTimeoutMs?: number | undefined;
  /** What a call may take, waiting for a connection included, in milliseconds; 30,000 by default. */
  timeoutMs?: number | undefined;
  /** Whether a connection that was lost is made again; true by default. */
  reconnect?: boolean | undefined;
  /** The WebSocket class where the platform has none: Node before version 22. */
  WebSocket?: WebSocketClass | undefined;
}

export interface InferOptions extends RequestOptions {
  /** What this call may take, in milliseconds. What is left of it when it is sent travels as its deadline. */
  timeoutMs?: number | undefined;
  /** Aborting cancels the call at the server and rejects it with the signal's reason. */
  signal?: AbortSignal | undefined;
}

/** Where the time went, in the server's words and milliseconds; fields can be missing and others be added. */
export interface Timing {
  /** From the arrival of the request to the start of its batch. */
  queuedMs?: number;
  computeMs?: number;
  /** From the arrival of the request until its result was handed to the socket. */
  totalMs?: number;
  /** Requests with the same number ran together. */
  batchId?: number;
  batchRows?: number;
  /** The share of the batch's elements that were padding, from 0 to 1. */
  padded?: number;
  /** Why the batch began when it did. */
  released?: string;
  [field: string]: Value | undefined;
}

export interface Result {
  /** Tensors and values by name. */
  outputs: Outputs;
  /** The timeline, if it was asked for. */
  timing: Timing | undefined;
  /** From the call to its answer as this client saw it, in milliseconds: its wait for a credit is included. */
  roundTripMs: number;
}

/** A model as the server describes it. Other fields can be there. */
export interface ModelInfo {
  name: string;
  /** [name, dtype, shape] each, the shape of one item, −1 for any size; null when the model does not say. */
  inputs: [string, string, number[]][] | null;
  outputs: [string, string, number[]][] | null;
  max_batch_size: number;
  [field: string]: Value;
}

/** What a server keeps of a client's name, in characters. */
export const MAX_NAME = 128;
/** The longest token a server knows, in characters. */
export const MAX_TOKEN = 1024;

// Every option by its name: the types hold these to be all there are.
const CLIENT_OPTIONS: Readonly<Record<keyof ClientOptions, true>> = {
  token: true,
  name: true,
  connectTimeoutMs: true,
  timeoutMs: true,
  reconnect: true,
  WebSocket: true,
};
const INFER_OPTIONS: Readonly<Record<keyof InferOptions, true>> = {
  timeoutMs: true,
  signal: true,
  rows: true,
  priority: true,
  supersede: true,
  timing: true,
};

/** Refuses options that are not known: a timeout that is misspelt would be none. Throws InvalidArgument. */
export function checkClientOptions(options: ClientOptions): void {
  checkNames(options, CLIENT_OPTIONS);
}

/** Likewise for those of a call. */
export function checkInferOptions(options: InferOptions): void {
  checkNames(options, INFER_OPTIONS);
}

function checkNames(options: object, known: object): void {
  for (const name of Object.keys(options)) {
    if (!Object.hasOwn(known, name)) throw fieldValue(name, `is no option; there are ${Object.keys(known).join(", ")}`);
  }
}

/** A timeout, which must be finite. Zero or less is legal: a budget that is used up already. */
export function checkedTimeout(name: string, ms: number): number {
  if (typeof ms !== "number" || !Number.isFinite(ms)) throw fieldValue(name, "must be a finite number of milliseconds");
  return ms;
}

/** The time for connecting: without any no attempt can succeed, and the client would make one after the other. */
export function checkedConnectTimeout(ms: number): number {
  if (checkedTimeout("connectTimeoutMs", ms) <= 0) {
    throw fieldValue("connectTimeoutMs", "must be more than 0: an attempt to connect that has no time always fails");
  }
  return ms;
}

export function checkedText(name: string, text: string, longest: number): string {
  if (typeof text !== "string" || !isWellFormed(text)) throw fieldType(name, "text");
  if (text.length < 1 || text.length > longest) throw fieldValue(name, `must be 1 to ${longest} characters`);
  return text;
}
