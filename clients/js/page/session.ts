/**
 * The page's connection to the daemon, through the gateway that served the page: its state in the page's words, the
 * models that are there now, and the token if one is asked for.
 */

import { Client, InferdError } from "../src/index.js";
import { type Model, modelOf } from "./models.js";

/**
 * `lost`: it was open and is tried again; `token`: the server takes nobody without one, or not with this one;
 * `refused`: the server will not have this page, and trying again would not help.
 */
export type State = "connecting" | "open" | "lost" | "token" | "refused";

export type Ask = Client["infer"];

const TOKEN_KEY = "inferd-token";

export class Session {
  private client!: Client;
  private state: State = "connecting";
  private wasOpen = false;

  /** `onModels` hears of the models of every new connection, just before `onState` hears that it is open. */
  constructor(
    private readonly onState: (state: State, problem: string) => void,
    private readonly onModels: (models: readonly Model[]) => void,
  ) {}

  /** Connects, with the token that this tab was given, if any. */
  start(): void {
    const token = sessionStorage.getItem(TOKEN_KEY);
    const url = `${location.protocol === "https:" ? "wss" : "ws"}://${location.host}/ws`;
    this.client = new Client(url, { name: "inferd-page", ...(token === null ? {} : { token }) });
    const client = this.client;
    client.onState = () => void this.follow(client);
    void this.follow(client);
  }

  /** Connects again with this token. */
  useToken(token: string): void {
    sessionStorage.setItem(TOKEN_KEY, token);
    this.start();
  }

  get isOpen(): boolean {
    return this.state === "open";
  }

  readonly ask: Ask = (...request) => this.client.infer(...request);

  private async follow(client: Client): Promise<void> {
    if (client.state === "connecting") {
      this.become(this.wasOpen ? "lost" : "connecting");
      return;
    }
    try {
      const models = await client.models();
      if (client !== this.client || client.state !== "open") return;
      this.wasOpen = true;
      this.onModels(models.map(modelOf));
      this.become("open");
    } catch (error) {
      // The client has given up: what it says now is why. One that was closed here is not this session's any more.
      if (client !== this.client || !(error instanceof InferdError)) return;
      const wantsToken = error.code === "UNAUTHENTICATED";
      if (wantsToken) sessionStorage.removeItem(TOKEN_KEY);
      this.become(wantsToken ? "token" : "refused", error.message);
    }
  }

  private become(state: State, problem = ""): void {
    if (state === this.state) return;
    this.state = state;
    this.onState(state, problem);
  }
}
