/** Builds the page's one script into inferd/gateway/page/, where its HTML, CSS and icon are. */

import { createHash } from "node:crypto";
import { readFile, readdir } from "node:fs/promises";
import { fileURLToPath } from "node:url";
import { build } from "esbuild";

const here = new URL("./", import.meta.url);
const out = new URL("../../../inferd/gateway/page/", here);

/** What app.js is made of, in a fixed order. tests/gateway/test_page_is_built.py computes the same. */
async function sources() {
  const found = [];
  for (const folder of ["page/", "src/"]) {
    const names = await readdir(new URL(`../${folder}`, here));
    found.push(...names.filter((name) => name.endsWith(".ts")).map((name) => folder + name));
  }
  return found.sort();
}

const hash = createHash("sha256");
for (const path of await sources()) hash.update(await readFile(new URL(`../${path}`, here)));

await build({
  entryPoints: [fileURLToPath(new URL("app.ts", here))],
  outfile: fileURLToPath(new URL("app.js", out)),
  banner: { js: `// Made from clients/js/ by \`npm run page\`; sha256 of its sources: ${hash.digest("hex")}` },
  bundle: true,
  minify: true,
  format: "esm",
  platform: "browser",
  // What the Custom Highlight API asks for anyway, but for Firefox, which got it later.
  target: ["chrome105", "safari17.2", "firefox140"],
  legalComments: "none",
  charset: "utf8",
});
