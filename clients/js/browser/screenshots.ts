/** Takes the pictures of docs/ from the real page in a real browser: `npm run screenshots`. */

import { resolve } from "node:path";
import type { BrowserContextOptions, Page } from "playwright-core";
import { Daemon, closeBrowser, open, settled } from "./support.js";

const TEXT =
  "Ada Lovelace met Charles Babbage in London in 1833. Grace Hopper taught at Vassar College and later joined " +
  "IBM in New York. Siemens hired Anna Müller in Zürich in May 2021.";
// About twenty keystrokes a second: a fast typist.
const DELAY_MS = 50;
const DESKTOP = { viewport: { width: 1280, height: 840 } };
const PHONE = { viewport: { width: 360, height: 940 }, deviceScaleFactor: 2, hasTouch: true };

const daemon = await Daemon.start("ner", "echo", "virtual");
try {
  await picture("page-desktop", DESKTOP, write);
  await picture("page-desktop-dark", { ...DESKTOP, colorScheme: "dark" }, write);
  await picture("page-phone", PHONE, write);
  await picture("page-playground", DESKTOP, ask);
} finally {
  await closeBrowser();
  await daemon.end();
}

async function picture(
  name: string,
  options: BrowserContextOptions,
  act: (page: Page) => Promise<void>,
): Promise<void> {
  const { page } = await open(daemon.url, options);
  await act(page);
  await page.screenshot({ path: resolve(`../../docs/${name}.png`) });
  await page.context().close();
}

async function write(page: Page): Promise<void> {
  await page.click("#text");
  await page.keyboard.type(TEXT, { delay: DELAY_MS });
  await settled(page);
}

async function ask(page: Page): Promise<void> {
  await page.click("#tab-playground");
  await page.selectOption("#model", "ner");
  await page.fill("#inputs textarea", TEXT);
  await page.click("summary");
  await page.click("#send");
  await page.waitForSelector(".output");
  await page.evaluate(() => scrollTo(0, 0));
}
