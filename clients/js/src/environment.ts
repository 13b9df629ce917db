/** What the client takes from the outside world. Tests pass their own, and need not wait for anything. */

import { dialWith, type Dial, type WebSocketClass } from "./transport.js";

export interface Environment {
  /** A clock that only goes forwards, in milliseconds. */
  now(): number;
  /** Calls back once, after at least `ms`. */
  setTimer(callback: () => void, ms: number): unknown;
  clearTimer(timer: unknown): void;
  /** From 0 up to, and without, 1. */
  random(): number;
  dial: Dial;
}

// A timer of more, about 25 days, would fire at once.
const MAX_TIMER_MS = 2 ** 31 - 1;

/** The world as it is, with `WebSocket` for the platform's own. */
export function realEnvironment(WebSocket = (globalThis as { WebSocket?: WebSocketClass }).WebSocket): Environment {
  return {
    now: () => performance.now(),
    setTimer: (callback, ms) => setTimeout(callback, Math.min(Math.max(ms, 0), MAX_TIMER_MS)),
    clearTimer: (timer) => clearTimeout(timer as ReturnType<typeof setTimeout>),
    random: Math.random,
    dial: dialWith(WebSocket),
  };
}
