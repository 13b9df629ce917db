/** Makes dist-test/: the tests for Node, and the bundle of those that run in a browser too. */

import { mkdirSync, readdirSync, rmSync } from "node:fs";
import { build } from "esbuild";

mkdirSync("dist-test", { recursive: true });
for (const name of readdirSync("dist-test")) {
  if (name.endsWith(".test.js")) rmSync(`dist-test/${name}`); // of a test that may be gone
}

const shared = { bundle: true, format: "esm", target: "es2022", sourcemap: "inline", logLevel: "warning" };
const forNode = readdirSync("test")
  .filter((name) => name.endsWith(".test.ts"))
  .map((name) => `test/${name}`);

await build({
  ...shared,
  entryPoints: [...forNode, "test/browser.ts"],
  outdir: "dist-test",
  platform: "node",
  packages: "external",
});
await build({ ...shared, entryPoints: ["test/browser-page.ts"], outdir: "dist-test", platform: "browser" });
