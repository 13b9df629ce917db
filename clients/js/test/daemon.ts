/** A real daemon for a test: on a free port, a Unix socket, and where it has the gateway, a WebSocket. */

import { spawn, type ChildProcess } from "node:child_process";
import { existsSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";

/** The root of the repository, from dist-test/. */
const ROOT = join(dirname(fileURLToPath(import.meta.url)), "../../..");
const PYTHON = join(ROOT, ".venv/bin/python");
const START_MS = 60_000;

/** Why there is no daemon to test with; undefined if there is one. */
export const missing = existsSync(PYTHON) ? undefined : "there is no .venv in the repository: make venv";

export interface DaemonOptions {
  /** Of other sites whose pages may use the gateway. */
  webOrigins?: string[];
  /** The content of a file of tokens, lines of `name: token`. */
  tokens?: string;
}

export interface Urls {
  tcp: string;
  unix: string;
  websocket: string;
}

export class Daemon {
  readonly #directory: string;
  readonly #options: DaemonOptions;
  #process: ChildProcess;
  readonly urls: Urls;

  private constructor(directory: string, options: DaemonOptions, started: ChildProcess, urls: Urls) {
    this.#directory = directory;
    this.#options = options;
    this.#process = started;
    this.urls = urls;
  }

  /** Starts it, and returns when it is ready. */
  static async start(options: DaemonOptions = {}): Promise<Daemon> {
    const directory = mkdtempSync(join(tmpdir(), "inferd-js-"));
    if (options.tokens !== undefined) writeFileSync(join(directory, "tokens"), options.tokens, { mode: 0o600 });
    const [started, urls] = await serve(directory, options, "inferd://127.0.0.1:0", "127.0.0.1:0");
    return new Daemon(directory, options, started, urls);
  }

  /** Ends it as a service manager does; `meanwhile` runs when it has been told, and it has gone afterwards. */
  async stop(meanwhile?: () => Promise<void>): Promise<void> {
    const gone = ended(this.#process);
    await meanwhile?.();
    await gone;
  }

  /** Starts it again where it was. */
  async again(): Promise<void> {
    [this.#process] = await serve(this.#directory, this.#options, this.urls.tcp, new URL(this.urls.websocket).host);
  }

  /** Ends it, and leaves nothing behind. */
  async remove(): Promise<void> {
    await this.stop();
    rmSync(this.#directory, { recursive: true, force: true });
  }
}

async function serve(
  directory: string,
  { webOrigins, tokens }: DaemonOptions,
  tcp: string,
  web: string,
): Promise<[ChildProcess, Urls]> {
  const unix = `inferd+unix://${directory}/s`;
  const doubles = join(ROOT, "tests/doubles.py");
  const models = ["echo", "ner", "virtual", `slow=${doubles}:Slow`, `picky=${doubles}:Picky`];
  const options = [
    ...["--listen", tcp, "--listen", unix, "--web", web, "--device", "cpu"],
    ...(webOrigins ?? []).flatMap((origin) => ["--web-origin", origin]),
    ...(tokens === undefined ? [] : ["--tokens", join(directory, "tokens")]),
  ];
  const child = spawn(PYTHON, ["-m", "inferd", "serve", ...models, ...options], {
    cwd: ROOT,
    stdio: ["ignore", "pipe", "pipe"],
  });
  process.once("exit", () => child.kill()); // should the tests end before they have ended it
  const ready = await said(child, /is ready: .*/);
  const tcpUrl = /inferd:\/\/[^ ,]+/.exec(ready)?.[0];
  const host = /http:\/\/([^ ,]+)/.exec(ready)?.[1];
  if (tcpUrl === undefined || host === undefined) throw new Error(`the daemon does not say where it is: ${ready}`);
  return [child, { tcp: tcpUrl, unix, websocket: `ws://${host}/ws` }];
}

async function ended(child: ChildProcess): Promise<void> {
  if (child.exitCode !== null || child.signalCode !== null) return;
  const exit = new Promise((resolve) => child.once("exit", resolve));
  child.kill("SIGTERM");
  await exit;
}

/** The first line of the child that matches. */
function said(child: ChildProcess, pattern: RegExp): Promise<string> {
  return new Promise((resolve, reject) => {
    let output = "";
    const fail = (why: string) => {
      child.kill("SIGKILL");
      reject(new Error(`${why}; it said:\n${output}`));
    };
    const timer = setTimeout(() => fail(`the daemon was not ready within ${START_MS} ms`), START_MS);
    const read = (chunk: Buffer) => {
      output += chunk.toString();
      const found = pattern.exec(output)?.[0];
      if (found === undefined || !output.slice(output.indexOf(found)).includes("\n")) return;
      clearTimeout(timer);
      resolve(found);
    };
    child.stdout!.on("data", read);
    child.stderr!.on("data", read);
    child.once("exit", (code) => {
      clearTimeout(timer);
      fail(`the daemon ended with ${code}`);
    });
  });
}
