/** The lists that also run in a browser, in Node. */

import { describe, test } from "node:test";
import { behaviours } from "./behaviour.js";
import { vectors } from "./vectors.js";

for (const [title, list] of Object.entries({ vectors, behaviours })) {
  describe(title, () => {
    for (const { name, run } of list) test(name, { timeout: 20_000 }, async () => run());
  });
}
