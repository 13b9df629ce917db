/** What a behaviour may expect, in Node and in a browser alike. */

export interface Behaviour {
  /** A sentence. */
  name: string;
  run(): Promise<void> | void;
}

function shown(value: unknown): string {
  return JSON.stringify(value, (_, item: unknown) => (typeof item === "bigint" ? `${item}n` : item)) ?? String(value);
}

export function expect(condition: unknown, message: string): asserts condition {
  if (!condition) throw new Error(message);
}

/** Deep equality: NaN is itself, arrays and typed arrays of another kind differ. */
export function equal(actual: unknown, expected: unknown, what = ""): void {
  if (!same(actual, expected))
    throw new Error(`${what ? `${what}: ` : ""}expected ${shown(expected)}, got ${shown(actual)}`);
}

function same(a: any, b: any): boolean {
  if (Object.is(a, b)) return true;
  if (typeof a !== "object" || typeof b !== "object" || a === null || b === null) return false;
  if (Object.prototype.toString.call(a) !== Object.prototype.toString.call(b)) return false;
  if (ArrayBuffer.isView(a) || Array.isArray(a)) {
    return (
      a.constructor === b.constructor &&
      (a as any).length === b.length &&
      Array.prototype.every.call(a, (item, i) => same(item, b[i]))
    );
  }
  const names = Object.keys(a);
  return (
    names.length === Object.keys(b).length && names.every((name) => Object.hasOwn(b, name) && same(a[name], b[name]))
  );
}

type ErrorClass = abstract new (...args: any[]) => Error;

/** The error that `run` throws or rejects with: of the class, and its message holds the words. */
export async function fails<T extends ErrorClass>(
  run: Promise<unknown> | (() => unknown),
  kind: T,
  words = "",
): Promise<InstanceType<T>> {
  try {
    await (typeof run === "function" ? run() : run);
  } catch (error) {
    expect(error instanceof kind, `expected ${kind.name}, got ${String(error)} ${(error as Error)?.stack}`);
    expect(error.message.includes(words), `expected "${words}" in "${error.message}"`);
    return error as InstanceType<T>;
  }
  throw new Error(`expected ${kind.name}, but nothing failed`);
}

/** Returns when `condition` holds: what is under way in this event loop comes to pass meanwhile. */
export async function until(condition: () => boolean, what: string): Promise<void> {
  for (let turn = 0; turn < 10_000; turn++) {
    if (condition()) return;
    await turned();
  }
  throw new Error(`it never came to pass: ${what}`);
}

/** One turn of the event loop. */
export function turned(): Promise<void> {
  return new Promise((resolve) => {
    const { port1, port2 } = new MessageChannel();
    port1.onmessage = () => {
      port1.close();
      resolve();
    };
    port2.postMessage(null);
  });
}
