/** A real daemon with its gateway, and a real Chromium, for the page's tests. */

import assert from "node:assert/strict";
import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join, resolve } from "node:path";
import { createInterface } from "node:readline";
import { type Browser, type BrowserContextOptions, type Page, chromium } from "playwright-core";
import { Client } from "../src/index.js";

// The tests run in clients/js, wherever they were bundled to.
const ROOT = resolve("../..");
export const DOUBLES = join(ROOT, "tests/doubles.py");
const MODELS = resolve("browser/models.py");
export const SLOW = `ner=${MODELS}:Slow`;
export const FRAGILE = `ner=${MODELS}:Fragile`;
const PATIENCE_MS = 30_000;

/** A running daemon. It can be stopped, and started again at the same address. */
export class Daemon {
  private process: ChildProcess | undefined;
  private port = 0;
  private clients: Client[] = [];

  private constructor(
    private readonly folder: string,
    private readonly words: readonly string[],
  ) {}

  /** Serves what the words of a command line say, on free ports. */
  static async start(...words: string[]): Promise<Daemon> {
    const daemon = new Daemon(await mkdtemp(join(tmpdir(), "inferd-page-")), words);
    await daemon.start();
    return daemon;
  }

  async start(): Promise<void> {
    const listen = ["--web", `127.0.0.1:${this.port}`, "--listen", this.unixUrl, "--device", "cpu"];
    const running = spawn(join(ROOT, ".venv/bin/python"), ["-m", "inferd", "serve", ...listen, ...this.words], {
      cwd: this.folder, // where no model's name is a folder's
      env: { ...process.env, PYTHONPATH: ROOT },
      stdio: ["ignore", "pipe", "pipe"],
    });
    this.process = running;
    let log = "";
    running.stderr.on("data", (data) => (log += data));
    for await (const line of createInterface(running.stdout)) {
      const port = /http:\/\/127\.0\.0\.1:(\d+)/.exec(line)?.[1];
      if (!line.startsWith("inferd is ready") || port === undefined) continue;
      this.port = Number(port);
      running.stdout.resume();
      return;
    }
    throw new Error(`the daemon did not start:\n${log}`);
  }

  async stop(): Promise<void> {
    if (this.process === undefined || this.process.exitCode !== null) return;
    const ended = once(this.process, "exit");
    this.process.kill("SIGTERM");
    await ended;
  }

  /** Stops for good. */
  async end(): Promise<void> {
    for (const client of this.clients) client.close();
    await this.stop();
    await rm(this.folder, { recursive: true });
  }

  get unixUrl(): string {
    return `inferd+unix://${this.folder}/inferd.sock`;
  }

  get url(): string {
    return `http://127.0.0.1:${this.port}`;
  }

  /** A client beside the page, on the Unix socket. */
  client(): Client {
    const client = new Client(this.unixUrl);
    this.clients.push(client);
    return client;
  }
}

let browser: Browser | undefined;

/** The browser, started when it is first needed. */
async function launched(): Promise<Browser> {
  browser ??= await chromium.launch({
    executablePath: process.env["CHROMIUM"] ?? "/usr/bin/chromium",
    args: [
      "--headless=new",
      "--no-sandbox",
      "--disable-background-networking",
      "--disable-gpu",
      "--disable-dev-shm-usage",
    ],
  });
  return browser;
}

export async function closeBrowser(): Promise<void> {
  await browser?.close();
}

export interface Opened {
  page: Page;
  /** What the browser asked of any host. */
  requests: string[];
  /** Errors of scripts, refused contents, and whatever else reached the console as an error. */
  problems: string[];
}

/** Opens the page and waits until it is connected, or until `ready` is there. */
export async function open(
  url: string,
  options: BrowserContextOptions = {},
  ready = "#connection[data-state=open]",
): Promise<Opened> {
  const context = await (await launched()).newContext(options);
  context.setDefaultTimeout(PATIENCE_MS);
  const page = await context.newPage();
  const requests: string[] = [];
  const problems: string[] = [];
  context.on("request", (request) => requests.push(request.url()));
  page.on("websocket", (socket) => requests.push(socket.url()));
  page.on("pageerror", (error) => problems.push(String(error)));
  page.on("console", (message) => message.type() === "error" && problems.push(message.text()));
  await page.goto(url);
  await page.waitForSelector(ready);
  return { page, requests, problems };
}

export interface ShownMark {
  kind: string;
  start: number;
  end: number;
  text: string;
}

/** The marks that the browser shows, from its own registry of highlights. */
export function marks(page: Page): Promise<ShownMark[]> {
  return page.evaluate(() =>
    [...CSS.highlights]
      .flatMap(([kind, ranges]) =>
        [...ranges].map((range) => ({
          kind,
          start: range.startOffset,
          end: range.endOffset,
          text: String(range),
        })),
      )
      .sort((a, b) => a.start - b.start),
  );
}

const KINDS: Record<string, string> = { PER: "person", ORG: "organisation", LOC: "place", DATE: "date" };

/** What the page should show for a text: the model's own answer, asked on another connection. */
export async function expectedMarks(client: Client, text: string): Promise<ShownMark[]> {
  const { outputs } = await client.infer("ner", { text });
  const characters = [...text];
  const units = (character: number): number => characters.slice(0, character).join("").length;
  return (outputs["spans"] as { entity: string; start: number; end: number }[]).map(({ entity, start, end }) => ({
    kind: KINDS[entity]!,
    start: units(start),
    end: units(end),
    text: characters.slice(start, end).join(""),
  }));
}

/** Waits until the marks are those of the newest text. */
export async function settled(page: Page): Promise<void> {
  await page.waitForSelector("#progress[data-state=current]", { state: "attached" });
}

/** Asks until the answer is yes. */
export async function until(question: () => Promise<boolean>, what: string): Promise<void> {
  const end = performance.now() + PATIENCE_MS;
  while (!(await question())) {
    assert.ok(performance.now() < end, `never came: ${what}`);
    await new Promise((done) => setTimeout(done, 20));
  }
}

/** A number on the page. */
export async function numberIn(page: Page, selector: string): Promise<number> {
  return Number(await page.textContent(selector));
}
