/**
 * Everything that can go wrong, as classes: one root, and below it one class for each code of the wire.
 *
 *     InferdError
 *     ├── ProtocolError           the other side does not speak the protocol
 *     ├── ConfigError             an address or option that cannot be used
 *     ├── InvalidArgument         INVALID_ARGUMENT     the caller's, never retryable
 *     ├── NotFound                NOT_FOUND            no such model
 *     ├── Unimplemented           UNIMPLEMENTED        the server does not know this message or version
 *     ├── Unauthenticated         UNAUTHENTICATED      the token is missing or wrong
 *     ├── Cancelled               CANCELLED            somebody took the request back
 *     │   └── Superseded          CANCELLED            a newer request of the same caller did
 *     ├── DeadlineExceeded        DEADLINE_EXCEEDED    the answer did not come in time
 *     ├── ResourceExhausted       RESOURCE_EXHAUSTED   mostly retryable: full now, not later
 *     ├── Unavailable             UNAVAILABLE          retryable: draining, lost worker, lost connection
 *     └── Internal                INTERNAL             the model raised
 *
 * docs/PROTOCOL.md lists the reasons. What a server sends keeps its own words; the sentences that this client says
 * itself stand where they are thrown, and the few that are said in several places stand here.
 */

export interface ErrorDetails {
  reason?: string | undefined;
  retryable?: boolean | undefined;
  /** The server's estimate of when to try again, in milliseconds. */
  retryAfterMs?: number | undefined;
  requestId?: number | undefined;
  cause?: unknown;
}

/**
 * How a call ended, when not with a result. `code` is the gRPC name, `reason` the case below it, `retryable` whether
 * the same call can succeed later or elsewhere, `retryAfterMs` when the server thinks it will, `requestId` the connection's
 * id of the request (0: it was never sent).
 */
export class InferdError extends Error {
  // Set here and not from the class, whose name a minifier changes.
  override readonly name: string = "InferdError";
  readonly code: string = "UNKNOWN";
  readonly reason: string;
  readonly retryable: boolean;
  readonly retryAfterMs: number | undefined;
  requestId: number;

  constructor(message: string, details: ErrorDetails = {}) {
    super(message, details.cause === undefined ? undefined : { cause: details.cause });
    this.reason = details.reason ?? "";
    this.retryable = details.retryable ?? false;
    this.retryAfterMs = details.retryAfterMs;
    this.requestId = details.requestId ?? 0;
  }
}

/** Bytes that are not this protocol. The stream is out of step, so the connection ends. */
export class ProtocolError extends InferdError {
  override readonly name = "ProtocolError";
  override readonly code = "INTERNAL";

  constructor(message: string, details: ErrorDetails = {}) {
    super(message, { reason: "PROTOCOL", ...details });
  }
}

/** An address or an option that cannot be used. Says what, why, and what to do. */
export class ConfigError extends InferdError {
  override readonly name = "ConfigError";
  override readonly code = "INVALID_ARGUMENT";

  constructor(message: string, details: ErrorDetails = {}) {
    super(message, { reason: "CONFIG", ...details });
  }
}

/** The request cannot be right, on this server or any other. */
export class InvalidArgument extends InferdError {
  override readonly name = "InvalidArgument";
  override readonly code = "INVALID_ARGUMENT";
}

/** No model of that name is served. */
export class NotFound extends InferdError {
  override readonly name = "NotFound";
  override readonly code = "NOT_FOUND";
}

/** The server does not know this message or this protocol version. */
export class Unimplemented extends InferdError {
  override readonly name = "Unimplemented";
  override readonly code = "UNIMPLEMENTED";
}

/** The server did not accept the token. */
export class Unauthenticated extends InferdError {
  override readonly name = "Unauthenticated";
  override readonly code = "UNAUTHENTICATED";
}

/** The request was taken back before its answer left. */
export class Cancelled extends InferdError {
  override readonly name: string = "Cancelled";
  override readonly code = "CANCELLED";
}

/** A newer request with the same `supersede` key took its place. */
export class Superseded extends Cancelled {
  override readonly name = "Superseded";
}

/** The answer did not come in time. */
export class DeadlineExceeded extends InferdError {
  override readonly name = "DeadlineExceeded";
  override readonly code = "DEADLINE_EXCEEDED";
}

/** There is no room for the request now. */
export class ResourceExhausted extends InferdError {
  override readonly name = "ResourceExhausted";
  override readonly code = "RESOURCE_EXHAUSTED";
}

/** The server, a worker or the connection went away before the answer came. */
export class Unavailable extends InferdError {
  override readonly name = "Unavailable";
  override readonly code = "UNAVAILABLE";
}

/** The model failed on this request. */
export class Internal extends InferdError {
  override readonly name = "Internal";
  override readonly code = "INTERNAL";
}

const BY_CODE: Readonly<Record<string, new (message: string, details: ErrorDetails) => InferdError>> = {
  INVALID_ARGUMENT: InvalidArgument,
  NOT_FOUND: NotFound,
  UNIMPLEMENTED: Unimplemented,
  UNAUTHENTICATED: Unauthenticated,
  CANCELLED: Cancelled,
  DEADLINE_EXCEEDED: DeadlineExceeded,
  RESOURCE_EXHAUSTED: ResourceExhausted,
  UNAVAILABLE: Unavailable,
  INTERNAL: Internal,
};

/** The error for what came over the wire. A code that this side does not know makes a plain InferdError. */
export function fromWire(code: string, message: string, details: ErrorDetails): InferdError {
  if (code === "CANCELLED" && details.reason === "SUPERSEDED") return new Superseded(message, details);
  const kind = Object.hasOwn(BY_CODE, code) ? BY_CODE[code] : undefined;
  return kind === undefined ? new InferdError(message, details) : new kind(message, details);
}

export function fieldType(field: string, expected: string): InvalidArgument {
  return new InvalidArgument(`field '${field}' must be ${expected}`, { reason: "FIELD_TYPE" });
}

export function fieldValue(field: string, problem: string): InvalidArgument {
  return new InvalidArgument(`field '${field}' ${problem}`, { reason: "FIELD_VALUE" });
}

export function badTensor(name: string, problem: string): InvalidArgument {
  return new InvalidArgument(`tensor '${name}': ${problem}`, { reason: "TENSOR" });
}

export function badValues(problem: string): InvalidArgument {
  return new InvalidArgument(`the values segment ${problem}`, { reason: "VALUES" });
}

export function connectFailed(address: string, problem: string): Unavailable {
  const message = `cannot connect to ${address}: ${problem}`;
  return new Unavailable(message, { reason: "CONNECT_FAILED", retryable: true });
}

/** `problem` says why, where that is known. */
export function connectionLost(address: string, problem: string): Unavailable {
  const message = `the connection to ${address} was lost before the answer came${problem ? `: ${problem}` : ""}`;
  return new Unavailable(message, { reason: "CONNECTION_LOST", retryable: true });
}

export function superseded(): Superseded {
  return new Superseded("a newer request with the same supersede key took its place", { reason: "SUPERSEDED" });
}

export function clientClosed(): Cancelled {
  return new Cancelled("this client was closed; make a new one", { reason: "CLIENT_CANCELLED" });
}
