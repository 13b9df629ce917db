/** The playground: forms from signatures, answers as they can be read, errors in their own words. */

import assert from "node:assert/strict";
import { after, before, test } from "node:test";
import type { Page } from "playwright-core";
import { DOUBLES, Daemon, SLOW, closeBrowser, open } from "./support.js";

let daemon: Daemon;

before(async () => {
  daemon = await Daemon.start("echo", "ner", "virtual", `${DOUBLES}:Pixels`, `${DOUBLES}:Picky`);
});
after(async () => {
  await closeBrowser();
  await daemon.end();
});

async function openPlayground(model: string): Promise<Page> {
  const { page, problems } = await open(`${daemon.url}/#playground`);
  page.context().on("close", () => assert.deepEqual(problems, []));
  await page.selectOption("#model", model);
  return page;
}

/** Sends the form and returns what is shown then. */
async function send(page: Page): Promise<string> {
  await page.evaluate(() => document.getElementById("answer-body")!.replaceChildren());
  await page.click("#send");
  return page.locator("#answer-body", { hasText: /./ }).innerText();
}

test("ner answers with a table of spans, and with where the time went", async () => {
  const page = await openPlayground("ner");
  assert.equal(await page.textContent("#signature"), "Takes text STRING, answers spans LIST; up to 64 in a batch.");
  await page.fill("#inputs textarea", "Ada Lovelace met Charles Babbage in London.");
  const answer = await send(page);
  assert.match(answer, /Batch of 1: device was idle\./);
  assert.match(answer, /spans\s*list of 3/);
  const cells = await page.locator("#answer-body tbody tr").first().locator("td").allInnerTexts();
  assert.deepEqual(cells.slice(0, 4), ["PER", "0", "12", "Ada Lovelace"]);
  await page.context().close();
});

test("echo, which declares nothing, takes the inputs that are added", async () => {
  const page = await openPlayground("echo");
  await page.fill("#inputs textarea", "hello");
  for (const [name, type, text] of [
    ["half", "BF16", "[[1, 2.5], [-3, 0]]"],
    ["id", "INT64", "[7]"],
    ["map", "MAP", '{"a": [1]}'],
  ] as const) {
    await page.fill("#new-name", name);
    await page.selectOption("#new-type", type);
    await page.click("text=Add an input");
    await page.fill(`#input-${name}`, text);
  }
  const answer = await send(page);
  assert.match(answer, /half\s*BF16\[2, 2\]\s*1\s+2\.5\s+-3\s+0\s*min -3, mean 0\.125, max 2\.5/);
  assert.match(answer, /id\s*INT64\[1\]\s*7/);
  assert.match(answer, /text\s*value\s*"hello"/);
  assert.match(answer, /map\s*value\s*\{"a": \[1\]\}/);
  await page.click('[aria-label="Remove half"]');
  assert.doesNotMatch(await send(page), /half/);
  await page.context().close();
});

test("an input cannot be added twice", async () => {
  const page = await openPlayground("echo");
  await page.fill("#new-name", "text");
  await page.click("text=Add an input");
  assert.equal(await page.locator("#inputs .field").count(), 1);
  assert.equal(
    await page.evaluate(() => (document.getElementById("new-name") as HTMLInputElement).validationMessage),
    "There is an input of that name.",
  );
  await page.context().close();
});

test("tensors are typed, or filled with zeros or random numbers of a shape; rows lead", async () => {
  const page = await openPlayground("virtual");
  assert.equal(await page.inputValue("#input-x"), "[0]");
  await page.fill("#input-x", "[0.25]");
  assert.match(await send(page), /y\s*FP32\[1\]\s*0\.25/);
  await page.click("summary");
  await page.fill("#rows", "3");
  await page.check("text=Zeros");
  assert.match(await send(page), /y\s*FP32\[3, 1\]\s*0\s+0\s+0/);
  await page.check("text=Random");
  assert.match(await send(page), /FP32\[3, 1\](\s+0\.\d+){3}/);
  await page.selectOption("#model", "pixels");
  await page.fill("#rows", "");
  await page.check("text=Random");
  await page.fill("#input-image-shape", "64, 48, 3");
  const answer = await send(page);
  assert.match(answer, /brighter\s*UINT8\[64, 48, 3\]/);
  assert.match(answer, /size\s*INT64\[2\]\s*64\s+48/);
  await page.context().close();
});

test("what cannot be sent is said before it is", async () => {
  const page = await openPlayground("virtual");
  await page.fill("#input-x", "[1, 2]");
  assert.match(await send(page), /x: the model takes FP32\[1\], and these are 2 numbers of shape \[2\]\./);
  await page.fill("#input-x", "[1");
  assert.match(await send(page), /x: this is not JSON/);
  await page.context().close();
});

test("a server's error is shown with its code and reason, in its own words", async () => {
  const page = await openPlayground("picky");
  await page.fill("#input-x", "[-1]");
  assert.match(await send(page), /^INTERNAL \/ MODEL_FAILED\n\n?.*model/);
  await page.click("summary");
  await page.fill("#timeout", "0.001");
  assert.match(await send(page), /^DEADLINE_EXCEEDED \/ TIMEOUT/);
  await page.context().close();
});

test("a request can be taken back, and the next one sent", async () => {
  const slow = await Daemon.start(SLOW, "--set", "pause_s=3");
  try {
    const { page } = await open(`${slow.url}/#playground`);
    await page.click("#send");
    await page.click("#cancel");
    await page.locator("#answer-body", { hasText: "CANCELLED" }).waitFor();
    await page.fill("#inputs textarea", "Again");
    await page.click("#send");
    await page.locator("#answer-body td", { hasText: "PER" }).waitFor();
    await page.context().close();
  } finally {
    await slow.end();
  }
});

test("what was filled in survives a daemon that is restarted", async () => {
  const own = await Daemon.start("echo");
  try {
    const { page } = await open(`${own.url}/#playground`);
    await page.fill("#inputs textarea", "still here");
    await own.stop();
    await page.waitForSelector("#connection[data-state=lost]");
    await own.start();
    await page.waitForSelector("#connection[data-state=open]");
    assert.match(await send(page), /"still here"/);
    await page.context().close();
  } finally {
    await own.end();
  }
});
