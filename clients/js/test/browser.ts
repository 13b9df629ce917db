/**
 * Runs the lists in Chromium, on a page of an origin of its own that the gateway allows: `npm run test:browser`.
 * $CHROMIUM names the browser, by default the distribution's.
 */

import { readFile } from "node:fs/promises";
import { createServer } from "node:http";
import type { AddressInfo } from "node:net";
import { fileURLToPath } from "node:url";
import { chromium } from "playwright-core";
import type { Outcome } from "./browser-page.js";
import { Daemon, missing } from "./daemon.js";

const FILES: Record<string, [string, string]> = {
  "/": ["../test/browser.html", "text/html"],
  "/browser-page.js": ["browser-page.js", "text/javascript"],
};
const LIMIT_MS = 120_000;

const server = createServer(async (request, response) => {
  const [file, type] = FILES[new URL(request.url!, "http://here").pathname] ?? [];
  if (file === undefined) return void response.writeHead(404, { "Content-Type": "text/plain" }).end("not here");
  const content = await readFile(fileURLToPath(new URL(file, import.meta.url)));
  response.writeHead(200, { "Content-Type": `${type}; charset=utf-8` }).end(content);
});

async function main(): Promise<boolean> {
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  const origin = `http://127.0.0.1:${(server.address() as AddressInfo).port}`;
  const daemon = await Daemon.start({ webOrigins: [origin] });
  const browser = await chromium.launch({
    executablePath: process.env["CHROMIUM"] ?? "/usr/bin/chromium",
    args: [
      "--headless=new",
      "--no-sandbox",
      "--disable-background-networking",
      "--disable-gpu",
      "--disable-dev-shm-usage",
    ],
  });
  try {
    const page = await browser.newPage();
    page.setDefaultTimeout(LIMIT_MS);
    await page.goto(`${origin}/?daemon=${encodeURIComponent(daemon.urls.websocket)}`);
    const outcomes = await Promise.race([
      page.evaluate(() => globalThis.outcomes),
      new Promise<Outcome[]>((_, reject) =>
        setTimeout(() => reject(new Error(`not done within ${LIMIT_MS} ms`)), LIMIT_MS).unref(),
      ),
    ]);
    // The same page by another name is of another origin, which the gateway does not know.
    const elsewhere = await browser.newPage();
    await elsewhere.goto(`${origin.replace("127.0.0.1", "localhost")}/nothing`);
    const opened = await elsewhere.evaluate(
      (url) =>
        new Promise<boolean>((resolve) => {
          const socket = new WebSocket(url, "inferd.v1");
          socket.onopen = () => resolve(true);
          socket.onclose = () => resolve(false);
        }),
      daemon.urls.websocket,
    );
    outcomes.push({
      list: "live",
      name: "a page of another origin is refused",
      ...(opened ? { error: "it was let in" } : {}),
    });
    const failed = outcomes.filter(({ error }) => error !== undefined);
    for (const { list, name, error } of outcomes)
      console.log(`${error === undefined ? "✔" : "✖"} ${list}: ${name}${error ? `\n${error}` : ""}`);
    console.log(`${await browser.version()}: ${outcomes.length - failed.length} passed, ${failed.length} failed`);
    return failed.length === 0 && outcomes.length > 0;
  } finally {
    await browser.close();
    await daemon.remove();
    server.close();
  }
}

if (missing !== undefined) {
  console.error(`cannot test: ${missing}`);
  process.exitCode = 1;
} else {
  process.exitCode = (await main()) ? 0 : 1;
}
