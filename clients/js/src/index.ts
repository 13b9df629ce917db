/**
 * The client of inferd, for browsers and Node.
 *
 *     const client = new Client("ws://127.0.0.1:7480/ws");
 *     const { outputs } = await client.infer("ner", { text: "Ada Lovelace met Charles Babbage." }, { timeoutMs: 500 });
 *
 * How it is made, from the bytes up:
 *
 *     frame.ts msgpack.ts tensor.ts messages.ts   the language
 *     decoder.ts        chunks of bytes → frames
 *     codec.ts          inputs → payload, payload → outputs
 *     call.ts           one thing a caller waits for; the queue of those not sent
 *     conversation.ts   ids, credits, cancelling: a connection's logic, without the connection
 *     transport.ts sockets.ts   WebSocket; TCP and Unix sockets in Node
 *     connection.ts     a conversation on a transport
 *     client.ts options.ts      Client: deadlines, reconnecting; what it may be told
 */

export { Client, type State } from "./client.js";
export type { InputValue, Inputs, Outputs, Priority } from "./codec.js";
export type { Environment } from "./environment.js";
export {
  Cancelled,
  ConfigError,
  DeadlineExceeded,
  InferdError,
  Internal,
  InvalidArgument,
  NotFound,
  ProtocolError,
  ResourceExhausted,
  Superseded,
  Unauthenticated,
  Unavailable,
  Unimplemented,
} from "./errors.js";
export type { Value } from "./msgpack.js";
export type { ClientOptions, InferOptions, ModelInfo, Result, Timing } from "./options.js";
export { Tensor, type Dtype, type TypedArray } from "./tensor.js";
export type { Transport, TransportEvents, WebSocketClass } from "./transport.js";
export { VERSION } from "./version.js";
