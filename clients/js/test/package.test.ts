/** What is shipped: one version, one dependency, and a bundle that a browser can load. */

import assert from "node:assert/strict";
import { readFile } from "node:fs/promises";
import { test } from "node:test";
import { build } from "esbuild";
import { VERSION } from "../src/index.js";

const read = (path: string) => readFile(new URL(path, import.meta.url), "utf8");

test("the version is the package's and the daemon's", async () => {
  assert.equal(JSON.parse(await read("../package.json")).version, VERSION);
  assert.match(await read("../../../inferd/_version.py"), new RegExp(`"${VERSION}"`));
});

test("a msgpack codec is the only dependency, and the lock names no host to take packages from", async () => {
  assert.deepEqual(Object.keys(JSON.parse(await read("../package.json")).dependencies), ["@msgpack/msgpack"]);
  assert.ok(!(await read("../package-lock.json")).includes('"resolved"'));
});

test("the bundle for browsers takes nothing from Node", async () => {
  const { metafile, outputFiles } = await build({
    entryPoints: ["src/index.ts"],
    bundle: true,
    format: "esm",
    platform: "browser",
    metafile: true,
    write: false,
  });
  assert.deepEqual(
    Object.values(metafile.outputs).flatMap(({ imports }) => imports),
    [],
  );
  assert.ok(!/["']node:/.test(outputFiles[0]!.text));
});
