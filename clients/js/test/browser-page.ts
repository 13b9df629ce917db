/** The lists of vectors and behaviours in a browser; the daemon's WebSocket is in the page's query. */

import { Client, ConfigError } from "../src/index.js";
import { behaviours } from "./behaviour.js";
import { expect, fails, type Behaviour } from "./expect.js";
import { live } from "./live.js";
import { vectors } from "./vectors.js";

export interface Outcome {
  list: string;
  name: string;
  error?: string;
}

declare global {
  var outcomes: Promise<Outcome[]>;
}

const onlyHere: Behaviour[] = [
  {
    name: "a socket that a browser cannot open is said to be that",
    async run() {
      for (const url of ["inferd://127.0.0.1:7433", "inferd+unix:///run/inferd.sock"]) {
        const client = new Client(url);
        await fails(client.infer("echo", {}), ConfigError, "which a browser cannot open");
        expect(client.state === "closed", client.state);
      }
    },
  },
];

async function runAll(): Promise<Outcome[]> {
  const url = new URLSearchParams(location.search).get("daemon")!;
  const outcomes: Outcome[] = [];
  for (const [list, behaviour] of Object.entries({ vectors, behaviours, onlyHere, live: live(url) })) {
    for (const { name, run } of behaviour) {
      try {
        await run();
        outcomes.push({ list, name });
      } catch (error) {
        outcomes.push({
          list,
          name,
          error: error instanceof Error ? `${error.message}\n${error.stack}` : String(error),
        });
      }
    }
  }
  return outcomes;
}

globalThis.outcomes = runAll();
