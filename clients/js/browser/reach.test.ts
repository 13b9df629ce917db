/** Who can use the page, and who cannot: keyboard, screen reader, small screens, colours; other hosts, tokens. */

import assert from "node:assert/strict";
import { chmod, mkdtemp, rm, writeFile } from "node:fs/promises";
import { createServer, request } from "node:http";
import type { AddressInfo } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, test } from "node:test";
import type { Page } from "playwright-core";
import { Daemon, closeBrowser, marks, open, settled } from "./support.js";

const SENTENCE = "Ada Lovelace met Charles Babbage in London in 1833 for IBM.";

let daemon: Daemon;

before(async () => {
  daemon = await Daemon.start("echo", "ner", "virtual");
});
after(async () => {
  await closeBrowser();
  await daemon.end();
});

test("nothing is asked of any other host, and nothing is refused by the page's own policy", async () => {
  const { page, requests, problems } = await open(daemon.url);
  await page.fill("#text", SENTENCE);
  await settled(page);
  await page.click("#tab-playground");
  await page.click("#send");
  await page.waitForSelector(".timeline");
  const { host } = new URL(daemon.url);
  assert.ok(requests.length >= 4, requests.join(" "));
  assert.deepEqual([...new Set(requests.map((url) => new URL(url).host))], [host]);
  assert.deepEqual(problems, []);
  const response = await page.request.get(daemon.url);
  assert.match(response.headers()["content-security-policy"] ?? "", /default-src 'self'/);
  await page.context().close();
});

test("a page of another origin is refused", async () => {
  const stranger = createServer((_, response) =>
    response.setHeader("Content-Type", "text/html").end("<p>stranger</p>"),
  );
  await new Promise<void>((done) => stranger.listen(0, "127.0.0.1", done));
  const origin = `http://127.0.0.1:${(stranger.address() as AddressInfo).port}`;
  try {
    const { page } = await open(origin, {}, "p");
    const outcome = await page.evaluate(
      (url) =>
        new Promise((done) => {
          const socket = new WebSocket(url, "inferd.v1");
          socket.onopen = () => done("open");
          socket.onclose = () => done("refused");
        }),
      `${daemon.url.replace("http", "ws")}/ws`,
    );
    assert.equal(outcome, "refused");
    await page.context().close();
    assert.equal(await upgradeStatus(origin), 403);
    assert.equal(await upgradeStatus(daemon.url), 101);
  } finally {
    stranger.closeAllConnections();
    await new Promise((done) => stranger.close(done));
  }
});

/** What the gateway answers to a WebSocket of a page from this origin. */
function upgradeStatus(origin: string): Promise<number> {
  const headers = {
    Origin: origin,
    Connection: "Upgrade",
    Upgrade: "websocket",
    "Sec-WebSocket-Version": "13",
    "Sec-WebSocket-Key": "AAAAAAAAAAAAAAAAAAAAAA==",
    "Sec-WebSocket-Protocol": "inferd.v1",
  };
  return new Promise((done, failed) => {
    const asked = request(`${daemon.url}/ws`, { headers });
    asked.on("response", (response) => done(response.resume().statusCode!));
    asked.on("upgrade", (response, socket) => {
      socket.destroy();
      done(response.statusCode!);
    });
    asked.on("error", failed);
    asked.end();
  });
}

test("on a phone nothing is wider than the screen", async () => {
  for (const width of [320, 360]) {
    const { page } = await open(daemon.url, { viewport: { width, height: 740 }, hasTouch: true });
    await page.fill("#text", `${SENTENCE} ${"Donaudampfschifffahrtsgesellschaft".repeat(4)}`);
    await settled(page);
    assert.equal(await widthBeyond(page), 0, `Write, ${width}`);
    await page.click("#tab-playground");
    for (const model of ["ner", "virtual", "echo"]) {
      await page.selectOption("#model", model);
      await page
        .locator("#inputs textarea")
        .first()
        .fill(model === "virtual" ? "[0.5]" : `${SENTENCE}${"x".repeat(300)}`);
      if (model === "virtual") await page.check("text=Zeros");
      await page.click("#send");
      await page.locator("#answer-body h3").first().waitFor();
      assert.equal(await widthBeyond(page), 0, `${model}, ${width}`);
    }
    await page.click("summary");
    assert.equal(await widthBeyond(page), 0, `options, ${width}`);
    await page.context().close();
  }
});

/** By how many pixels the page can be scrolled sideways. */
function widthBeyond(page: Page): Promise<number> {
  return page.evaluate(() => document.scrollingElement!.scrollWidth - innerWidth);
}

test("everything can be done with the keyboard, and where it is can be seen", async () => {
  const { page } = await open(daemon.url);
  const seen = await walk(page);
  assert.deepEqual(seen, ["skip", "tab-write", "text", "example", "chart"], "in the order of the page");

  await page.focus("#text");
  await page.keyboard.type(SENTENCE);
  await settled(page);
  assert.equal((await marks(page)).length, 5);
  await page.keyboard.press("Tab");
  await page.keyboard.press("Tab");
  assert.equal(await focused(page), "clear", "there is something to clear now");
  await page.keyboard.press("Tab");
  assert.equal(await focused(page), "chart");
  await page.locator("#readout", { hasText: `Keystroke ${SENTENCE.length}:` }).waitFor();
  await page.keyboard.press("ArrowLeft");
  await page.locator("#readout", { hasText: `Keystroke ${SENTENCE.length - 1}:` }).waitFor();
  await page.keyboard.press("Home");
  await page.locator("#readout", { hasText: "Keystroke 1:" }).waitFor();
  assert.match((await page.getAttribute("#chart", "aria-valuetext"))!, /^Keystroke 1: .* ms/);

  await page.focus("#tab-write");
  await page.keyboard.press("ArrowRight");
  assert.equal(await focused(page), "tab-playground");
  assert.equal(await page.isVisible("#view-write"), false);
  await page.keyboard.press("Tab");
  assert.equal(await focused(page), "model");
  await page.keyboard.type("virtual");
  await page.focus("#send");
  await page.keyboard.press("Enter");
  await page.locator("#answer-body h3", { hasText: "y" }).waitFor();
  assert.equal(await focused(page), "send");
  const playground = await walk(page);
  for (const id of ["model", "input-x", "send"]) assert.ok(playground.includes(id), playground.join(" "));
  await page.context().close();
});

function focused(page: Page): Promise<string> {
  return page.evaluate(() => {
    const { id, className, tagName } = document.activeElement!;
    return id || className || tagName.toLowerCase();
  });
}

/** Goes once round with the Tab key; checks that each stop shows that it has the focus. Returns their names. */
async function walk(page: Page): Promise<string[]> {
  const names: string[] = [];
  for (;;) {
    await page.keyboard.press("Tab");
    const name = await focused(page);
    if (name === "body") continue; // behind the last one, or before the first
    if (names.includes(name)) return names;
    names.push(name);
    const visible = await page.evaluate(() => {
      const element = document.activeElement!;
      const { outlineStyle, outlineWidth } = getComputedStyle(element);
      const ring = getComputedStyle(element.closest(".sheet") ?? element).boxShadow;
      const box = element.getBoundingClientRect();
      return (
        ((outlineStyle !== "none" && outlineWidth !== "0px") || ring !== "none") && box.width > 0 && box.bottom > 0
      );
    });
    assert.ok(visible, `${name} does not show its focus`);
  }
}

test("every control has a name and a role, and ids are unique", async () => {
  const { page } = await open(daemon.url);
  const tree = await page.context().newCDPSession(page);
  for (const tab of ["write", "playground"]) {
    await page.click(`#tab-${tab}`);
    if (tab === "playground") {
      await page.click("summary");
      await page.selectOption("#model", "ner");
      await page.fill("#inputs textarea", SENTENCE);
      await page.click("#send");
      await page.waitForSelector(".output table");
      await page.selectOption("#model", "echo");
      await page.fill("#new-name", "x");
      await page.click("text=Add an input");
    }
    const { nodes } = await tree.send("Accessibility.getFullAXTree");
    const focusable = nodes.filter(
      (node) =>
        !node.ignored && node.properties?.some(({ name, value }) => name === "focusable" && value.value === true),
    );
    assert.ok(focusable.length > 4);
    for (const { role, name } of focusable) {
      if (["RootWebArea", "main"].includes(role?.value)) continue;
      assert.ok(name?.value, `a ${role?.value} has no name`);
      assert.notEqual(role?.value, "generic", `${name?.value} has no role`);
    }
  }
  const problems = await page.evaluate(() => {
    const ids = [...document.querySelectorAll("[id]")].map((element) => element.id);
    const references = ["aria-labelledby", "aria-describedby", "aria-controls", "for"].flatMap((attribute) =>
      [...document.querySelectorAll(`[${attribute}]`)].flatMap((element) =>
        element.getAttribute(attribute)!.split(" "),
      ),
    );
    return {
      twice: ids.filter((id, at) => ids.indexOf(id) !== at),
      nowhere: references.filter((id) => !ids.includes(id)),
      headings: [...document.querySelectorAll("h1")].filter((heading) => heading.checkVisibility()).length,
      lang: document.documentElement.lang,
    };
  });
  assert.deepEqual(problems, { twice: [], nowhere: [], headings: 1, lang: "en" });
  await page.context().close();
});

test("text has a contrast of 4.5 to 1 in both themes, and what is drawn 3 to 1", async () => {
  for (const colorScheme of ["light", "dark"] as const) {
    const { page } = await open(daemon.url, { colorScheme });
    await page.fill("#text", SENTENCE);
    await settled(page);
    assert.deepEqual(await faint(page), [], `Write, ${colorScheme}`);
    assert.deepEqual(await faintColours(page), [], colorScheme);
    await page.click("#tab-playground");
    await page.click("summary");
    await page.click("#send");
    await page.waitForSelector(".timeline");
    assert.deepEqual(await faint(page), [], `Playground, ${colorScheme}`);
    await page.selectOption("#model", "virtual");
    await page.fill("#input-x", "[");
    await page.click("#send");
    await page.waitForSelector(".failure");
    assert.deepEqual(await faint(page), [], `an error, ${colorScheme}`);
    await page.context().close();
  }
});

/** Texts that can be seen and have too little contrast to what lies behind them. */
function faint(page: Page): Promise<string[]> {
  return page.evaluate(() => {
    const pen = new OffscreenCanvas(1, 1).getContext("2d", { willReadFrequently: true })!;
    const rgb = (colour: string): number[] => {
      pen.clearRect(0, 0, 1, 1);
      pen.fillStyle = colour;
      pen.fillRect(0, 0, 1, 1);
      return [...pen.getImageData(0, 0, 1, 1).data];
    };
    const over = ([r, g, b, a]: number[], under: number[]): number[] =>
      [r!, g!, b!].map((value, i) => (value * a!) / 255 + under[i]! * (1 - a! / 255));
    const light = (channels: number[]): number => {
      const [r, g, b] = channels.map((value) => {
        const share = value / 255;
        return share <= 0.04045 ? share / 12.92 : ((share + 0.055) / 1.055) ** 2.4;
      });
      return 0.2126 * r! + 0.7152 * g! + 0.0722 * b!;
    };
    const behind = (element: Element | null): number[] =>
      element === null
        ? [255, 255, 255]
        : over(rgb(getComputedStyle(element).backgroundColor), behind(element.parentElement));
    const found: string[] = [];
    for (const element of document.body.querySelectorAll<HTMLElement>("*")) {
      const own = [...element.childNodes].some(
        (node) => node.nodeType === Node.TEXT_NODE && node.textContent!.trim() !== "",
      );
      const value = element instanceof HTMLTextAreaElement || element instanceof HTMLInputElement;
      if ((!own && !value) || !element.checkVisibility() || element.closest(".backdrop, .skip, :disabled")) continue;
      const background = behind(element);
      const ink = light(over(rgb(getComputedStyle(element).color), background));
      const paper = light(background);
      const contrast = (Math.max(ink, paper) + 0.05) / (Math.min(ink, paper) + 0.05);
      if (contrast < 4.5) found.push(`${element.tagName} ${element.className} ${element.id}: ${contrast.toFixed(2)}`);
    }
    return found;
  });
}

/** The same for colours that are no element's: marks under text, and the chart's columns on the paper. */
function faintColours(page: Page): Promise<string[]> {
  return page.evaluate(() => {
    const style = getComputedStyle(document.documentElement);
    const light = (name: string): number => {
      const hex = style.getPropertyValue(`--${name}`).trim();
      const [r, g, b] = [1, 3, 5].map((at) => {
        const share = parseInt(hex.slice(at, at + 2), 16) / 255;
        return share <= 0.04045 ? share / 12.92 : ((share + 0.055) / 1.055) ** 2.4;
      });
      return 0.2126 * r! + 0.7152 * g! + 0.0722 * b!;
    };
    const pairs: [string, string, number][] = [
      ...["compute", "queue", "way", "line-strong", "focus"].map((name): [string, string, number] => [
        name,
        "paper",
        3,
      ]),
      ...["person", "organisation", "place", "date", "other"].flatMap((kind): [string, string, number][] => [
        ["ink", `${kind}-tint`, 4.5],
        [kind, `${kind}-tint`, 4.5],
        [kind, "surface", 3],
      ]),
    ];
    return pairs.flatMap(([over, under, least]) => {
      const [a, b] = [light(over), light(under)];
      const contrast = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
      return contrast < least ? [`${over} on ${under}: ${contrast.toFixed(2)}`] : [];
    });
  });
}

test("nothing moves for those who do not want it to", async () => {
  for (const [reducedMotion, animations] of [
    ["no-preference", 1],
    ["reduce", 0],
  ] as const) {
    const { page } = await open(daemon.url, { reducedMotion });
    const moving = await page.evaluate(() => {
      document.getElementById("connection")!.dataset["state"] = "lost"; // which breathes
      return document.getAnimations().length;
    });
    assert.equal(moving, animations, reducedMotion);
    await page.context().close();
  }
});

test("a server that wants a token is given one, which stays in the tab", async () => {
  const folder = await mkdtemp(join(tmpdir(), "inferd-page-"));
  const file = join(folder, "tokens");
  await writeFile(file, "page: correct-horse-battery-staple\n");
  await chmod(file, 0o600);
  const guarded = await Daemon.start("ner", "--tokens", file);
  try {
    const { page } = await open(guarded.url, {}, "#connection[data-state=token]");
    assert.equal(await focused(page), "token");
    await page.keyboard.type("wrong-horse-battery-staple");
    await page.keyboard.press("Enter");
    await page.locator("#token-problem", { hasText: "does not take that token" }).waitFor();
    await page.keyboard.type("correct-horse-battery-staple");
    await page.keyboard.press("Enter");
    await page.waitForSelector("#connection[data-state=open]");
    assert.equal(await page.isVisible("#token-form"), false);
    await page.fill("#text", SENTENCE);
    await settled(page);
    assert.ok((await marks(page)).length > 0);
    await page.reload();
    await page.waitForSelector("#connection[data-state=open]");
    assert.equal(await page.evaluate(() => localStorage.length), 0);
    await page.context().close();
  } finally {
    await guarded.end();
    await rm(folder, { recursive: true });
  }
});
