/** Addresses: `ws://host[:port]/path`, `wss://…`, `inferd://host[:port]` for TCP, `inferd+unix:///path`. */

import { ConfigError } from "./errors.js";

export type Address =
  | { kind: "websocket"; url: string }
  | { kind: "tcp"; url: string; host: string; port: number }
  | { kind: "unix"; url: string; path: string };

const DEFAULT_PORT = 7433;
const UNIX = "inferd+unix://";
const ADVICE = "use ws://HOST[:PORT]/ws, wss://…, inferd://HOST[:PORT] or inferd+unix:///PATH";

/** Throws ConfigError for what is no address. */
export function parseAddress(url: string): Address {
  if (url.startsWith(UNIX)) {
    const path = url.slice(UNIX.length); // as it stands: no percent escapes
    if (!path.startsWith("/"))
      throw new ConfigError(`'${url}' is no address: the path of a Unix socket is absolute; ${ADVICE}`);
    if (new TextEncoder().encode(path).length > 107) {
      throw new ConfigError(`'${url}': the path of a Unix socket has at most 107 bytes; choose a shorter one`);
    }
    return { kind: "unix", url, path };
  }
  let parts: URL;
  try {
    parts = new URL(url);
  } catch {
    throw new ConfigError(`'${url}' is no address; ${ADVICE}`);
  }
  if ((parts.protocol === "ws:" || parts.protocol === "wss:") && !parts.hash) return { kind: "websocket", url };
  const bare = (parts.pathname === "" || parts.pathname === "/") && !parts.search && !parts.hash && !parts.username;
  if (parts.protocol === "inferd:" && parts.hostname && bare) {
    const host = parts.hostname.replace(/^\[(.*)\]$/, "$1");
    const port = parts.port === "" ? DEFAULT_PORT : Number(parts.port);
    return { kind: "tcp", url: `inferd://${parts.hostname}:${port}`, host, port };
  }
  throw new ConfigError(`'${url}' is no address; ${ADVICE}`);
}
