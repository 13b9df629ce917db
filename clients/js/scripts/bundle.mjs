/** Makes dist/browser.js: the client and its codec in one file, for a page without a build step of its own. */

import { build } from "esbuild";

await build({
  entryPoints: ["src/index.ts"],
  outfile: "dist/browser.js",
  bundle: true,
  format: "esm",
  platform: "browser",
  target: "es2022",
  minify: true,
  legalComments: "inline",
});
