/** The text box: what is marked, when, and what happens to keystrokes that nobody needs any more. */

import assert from "node:assert/strict";
import { after, before, test } from "node:test";
import { Client } from "../src/index.js";
import {
  Daemon,
  FRAGILE,
  SLOW,
  closeBrowser,
  expectedMarks,
  marks,
  numberIn,
  open,
  settled,
  until,
} from "./support.js";

const SENTENCE = "Ada Lovelace met Charles Babbage in London in 1833.";
const LONG = `${SENTENCE} Grace Hopper taught at Vassar College. Siemens hired Anna Müller in Zürich in May 2021. `;

let daemon: Daemon;
let client: Client;

before(async () => {
  daemon = await Daemon.start("ner", "echo");
  client = daemon.client();
});
after(async () => {
  await closeBrowser();
  await daemon.end();
});

test("what is typed is marked, and listed", async () => {
  const { page, problems } = await open(daemon.url);
  await page.click("#text");
  await page.keyboard.type(SENTENCE);
  await settled(page);
  assert.deepEqual(await marks(page), await expectedMarks(client, SENTENCE));
  assert.deepEqual(await page.locator("#entities li").allInnerTexts(), [
    "Ada Lovelace\nperson",
    "Charles Babbage\nperson",
    "London\nplace",
    "1833\ndate",
  ]);
  assert.equal(await numberIn(page, "#sent"), SENTENCE.length, "one request for every keystroke");
  assert.match((await page.textContent("#batch"))!, /^Batch of 1: device (was idle|became free)\.$/);
  for (const figure of ["#trip", "#part-way", "#part-queue", "#part-compute", "#p50", "#p99"]) {
    assert.ok((await numberIn(page, figure)) >= 0, figure);
  }
  assert.deepEqual(problems, []);
  await page.context().close();
});

test("a pause is followed by a summary for screen readers", async () => {
  const { page } = await open(daemon.url);
  await page.fill("#text", SENTENCE);
  await page.locator("#summary", { hasText: "Found 2 people, 1 place, 1 date." }).waitFor({ state: "attached" });
  await page.context().close();
});

test("however fast it is typed, no answer is shown over a newer one, and the last text gets its marks", async () => {
  const { page } = await open(daemon.url);
  const text = LONG.repeat(4);
  await page.evaluate(() => {
    const progress = document.getElementById("progress")!;
    const log: [number, number][] = [];
    Object.assign(window, { log });
    const note = (): unknown => log.push([Number(progress.dataset["typed"]), Number(progress.dataset["shown"])]);
    new MutationObserver(note).observe(progress, { attributes: true });
  });
  await page.click("#text");
  await page.keyboard.type(text);
  await settled(page);
  assert.deepEqual(await marks(page), await expectedMarks(client, text));
  const log = await page.evaluate(() => (window as unknown as { log: [number, number][] }).log);
  for (const [at, [typed, shown]] of log.entries()) {
    assert.ok(shown <= typed);
    assert.ok(shown >= (log[at - 1]?.[1] ?? 0), `answer ${shown} was shown over ${log[at - 1]?.[1]}`);
  }
  assert.equal(log.at(-1)![0], text.length);
  await page.context().close();
});

test("edits in the middle move the marks behind them, and the answer agrees", async () => {
  const { page } = await open(daemon.url);
  await page.fill("#text", `In those days ${SENTENCE}`);
  await settled(page);
  await page.click("#text");
  await page.keyboard.press("Control+Home");
  await page.keyboard.type("Long ago, near Paris. ");
  await settled(page);
  const text = await page.inputValue("#text");
  assert.deepEqual(await marks(page), await expectedMarks(client, text));
  await page.keyboard.press("Control+a");
  await page.keyboard.press("Delete");
  assert.deepEqual(await marks(page), []);
  await page.context().close();
});

test("emoji do not shift the marks", async () => {
  const { page } = await open(daemon.url);
  const text = "👩‍🚀🎉 Ada Lovelace 🏙️ met Zoë Müller 𝔦𝔫 London. 🇨🇭 Charles Babbage did not.";
  await page.click("#text");
  await page.keyboard.insertText(text);
  await settled(page);
  const shown = await marks(page);
  assert.deepEqual(shown, await expectedMarks(client, text));
  assert.ok(shown.some((mark) => mark.text === "Charles Babbage"));
  await page.context().close();
});

test("an input method composes undisturbed while marks change around it", async () => {
  const { page } = await open(daemon.url);
  await page.click("#text");
  await page.keyboard.type("Ada Lovelace met Zoe in ");
  await page.evaluate(() => {
    const events: string[] = [];
    Object.assign(window, { events });
    for (const name of ["compositionstart", "compositionend"]) {
      document.getElementById("text")!.addEventListener(name, () => events.push(name));
    }
  });
  const input = await page.context().newCDPSession(page);
  for (const text of ["L", "Lo", "Lon", "Lond", "Londo", "London"]) {
    await input.send("Input.imeSetComposition", { text, selectionStart: text.length, selectionEnd: text.length });
    await settled(page);
  }
  await input.send("Input.insertText", { text: "London" });
  await page.keyboard.type(" in 1833.");
  await settled(page);
  const text = await page.inputValue("#text");
  assert.equal(text, "Ada Lovelace met Zoe in London in 1833.");
  assert.deepEqual(await marks(page), await expectedMarks(client, text));
  const events = await page.evaluate(() => (window as unknown as { events: string[] }).events);
  assert.deepEqual(events, ["compositionstart", "compositionend"]);
  await page.context().close();
});

test("a long text that is pasted is marked to its end, and both layers break its lines alike", async () => {
  for (const width of [1280, 480]) {
    const permissions = ["clipboard-read", "clipboard-write"];
    const { page } = await open(daemon.url, { viewport: { width, height: 800 }, permissions });
    const text = `${LONG.repeat(150)}\n\nunbreakable${"x".repeat(500)}\tand\n`;
    await page.evaluate((copied) => navigator.clipboard.writeText(copied), text);
    await page.click("#text");
    await page.keyboard.press("Control+v");
    await settled(page);
    assert.deepEqual((await marks(page)).at(-1), (await expectedMarks(client, text)).at(-1));
    const heights = await page.evaluate(() =>
      ["text", "backdrop"].map((id) => document.getElementById(id)!.scrollHeight),
    );
    assert.equal(heights[0], heights[1]);
    const scrolled = async (): Promise<boolean> => page.evaluate(() => document.getElementById("sheet")!.scrollTop > 0);
    await until(scrolled, "the box scrolls to the caret");
    assert.equal(await page.evaluate(() => document.getElementById("text")!.scrollTop), 0, "and both layers with it");
    await page.context().close();
  }
});

test("clearing can be undone, and the marks come back", async () => {
  const { page } = await open(daemon.url);
  await page.click("#text");
  await page.keyboard.type(SENTENCE);
  await settled(page);
  const before = await marks(page);
  await page.click("#clear");
  assert.equal(await page.inputValue("#text"), "");
  assert.deepEqual(await marks(page), []);
  await page.keyboard.press("Control+z");
  assert.equal(await page.inputValue("#text"), SENTENCE);
  await settled(page);
  assert.deepEqual(await marks(page), before);
  await page.context().close();
});

test("the example is typed keystroke by keystroke, takes no focus, and stops when told to", async () => {
  const { page } = await open(daemon.url);
  await page.focus("#example");
  await page.keyboard.press("Enter");
  await until(async () => (await marks(page)).some((mark) => mark.text === "Ada Lovelace"), "the first name, marked");
  await page.keyboard.press("Enter");
  const text = await page.inputValue("#text");
  assert.ok(text.startsWith("Ada L"));
  assert.equal(await page.textContent("#example"), "Type an example");
  await settled(page);
  assert.equal(await page.inputValue("#text"), text);
  assert.equal(await numberIn(page, "#sent"), text.length);
  await page.context().close();
});

test("keystrokes that a slow model has not begun with are superseded, and the last one is answered", async () => {
  const slow = await Daemon.start(SLOW, "--set", "pause_s=0.3");
  try {
    const { page } = await open(slow.url);
    await page.click("#text");
    const text = "Somebody types Quickly here";
    await page.keyboard.type(text);
    await settled(page);
    assert.deepEqual(
      (await marks(page)).map((mark) => mark.text),
      ["Somebody", "Quickly"],
    );
    const sent = await numberIn(page, "#sent");
    const superseded = await numberIn(page, "#superseded");
    assert.equal(sent, text.length);
    assert.ok(superseded > 0);
    const { outputs } = await slow.client().infer("ner", { text: "" });
    assert.equal((outputs["seen"] as string[]).length, sent - superseded + 1, "what was superseded was never computed");
    await page.context().close();
  } finally {
    await slow.end();
  }
});

test("closing the tab in the middle of a burst takes back what waits", async () => {
  const slow = await Daemon.start(SLOW, "--set", "pause_s=2");
  try {
    const { page } = await open(slow.url);
    const observer = slow.client();
    const text = "Nobody Waits";
    await page.fill("#text", "N");
    await until(async () => Number((await observer.status())["in_flight"]) > 0, "a keystroke that is being computed");
    await page.evaluate((keys) => {
      const area = document.getElementById("text") as HTMLTextAreaElement;
      for (const key of keys) {
        area.value += key;
        area.dispatchEvent(new InputEvent("input"));
      }
    }, text.slice(1));
    await until(async () => Number((await observer.status())["queued"]) > 0, "a keystroke that waits");
    await page.close();
    await until(async () => Number((await observer.status())["queued"]) === 0, "an empty queue");
    const { outputs } = await observer.infer("ner", { text: "after" });
    const seen = outputs["seen"] as string[];
    assert.deepEqual(seen, ["N", "after"], "what waited was never computed");
    const counters = (await observer.status())["counters"] as Record<string, number>;
    assert.equal(counters["disconnected_while_queued"], 1);
  } finally {
    await slow.end();
  }
});

test("the daemon is restarted: the page says so, comes back by itself, and marks the newest text", async () => {
  const own = await Daemon.start("ner");
  try {
    const { page } = await open(own.url);
    await page.click("#text");
    await page.keyboard.type("Ada Lovelace met ");
    await settled(page);
    await own.stop();
    await page.waitForSelector("#connection[data-state=lost]");
    await page.keyboard.type("Charles Babbage in London.");
    assert.match((await page.textContent("#progress"))!, /^Not marked yet: waiting for the connection$/);
    assert.deepEqual(
      (await marks(page)).map((mark) => mark.text),
      ["Ada Lovelace"],
      "old marks stay where they were",
    );
    await own.start();
    await page.waitForSelector("#connection[data-state=open]");
    await settled(page);
    const text = "Ada Lovelace met Charles Babbage in London.";
    assert.equal(await page.inputValue("#text"), text);
    assert.deepEqual(await marks(page), await expectedMarks(own.client(), text));
    await page.context().close();
  } finally {
    await own.end();
  }
});

test("the last text is not lost when the daemon goes while it is being computed", async () => {
  const slow = await Daemon.start(SLOW, "--set", "pause_s=1", "--drain-timeout-s", "0");
  try {
    const { page } = await open(slow.url);
    await page.click("#text");
    await page.keyboard.type("Nothing is Lost");
    await slow.stop();
    await page.waitForSelector("#connection[data-state=lost]");
    await slow.start();
    await settled(page);
    assert.deepEqual(
      (await marks(page)).map((mark) => mark.text),
      ["Nothing", "Lost"],
    );
    await page.context().close();
  } finally {
    await slow.end();
  }
});

test("a text whose worker died is asked for again, and an error is shown until the next keystroke", async () => {
  const fragile = await Daemon.start(FRAGILE);
  try {
    const { page } = await open(fragile.url);
    await page.fill("#text", "Bad");
    await page.locator("#write-problem", { hasText: "(MODEL_FAILED)" }).waitFor();
    await page.evaluate(() => {
      const problem = document.getElementById("write-problem")!;
      const told: string[] = [];
      Object.assign(window, { told });
      new MutationObserver(() => told.push(problem.textContent!)).observe(problem, { childList: true });
    });
    await page.fill("#text", "Die Twice");
    await settled(page);
    const told = await page.evaluate(() => (window as unknown as { told: string[] }).told);
    assert.match(told.join("\n"), /^\n.*\(WORKER_LOST\)\n$/, "the first error went, the second came and went");
    assert.deepEqual(
      (await marks(page)).map((mark) => mark.text),
      ["Die", "Twice"],
    );
    assert.equal(await page.textContent("#write-problem"), "");
    await page.context().close();
  } finally {
    await fragile.end();
  }
});

test("pointing at a keystroke says what became of it", async () => {
  const { page } = await open(daemon.url);
  await page.click("#text");
  await page.keyboard.type(SENTENCE);
  await settled(page);
  const chart = (await page.locator("#chart").boundingBox())!;
  await page.mouse.move(chart.x + chart.width - 1, chart.y + chart.height / 2);
  await page.locator("#readout", { hasText: `Keystroke ${SENTENCE.length}:` }).waitFor();
  await page.mouse.move(chart.x, chart.y - 50);
  await page.locator("#readout", { hasText: "Ticks below the line" }).waitFor();
  await page.context().close();
});

test("without a model that marks texts the playground opens", async () => {
  const other = await Daemon.start("echo");
  try {
    const { page } = await open(other.url);
    assert.ok(await page.isVisible("#view-playground"));
    await page.click("#tab-write");
    assert.match((await page.textContent("#progress"))!, /No model that marks texts is served here/);
    await page.context().close();
  } finally {
    await other.end();
  }
});
