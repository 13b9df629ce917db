/** A conversation by itself: ids, credits, and answers that come late, twice, or as something else. */

import assert from "node:assert/strict";
import { test } from "node:test";
import { encode } from "@msgpack/msgpack";
import { Call, type Outcome } from "../src/call.js";
import { encodeRequest } from "../src/codec.js";
import { Conversation, type Event } from "../src/conversation.js";
import { ProtocolError } from "../src/errors.js";
import { Type } from "../src/frame.js";
import { frame, readFrames, resultFrame, Wire, type Read } from "./fake-server.js";

class Link {
  readonly conversation = new Conversation("inferd://there:1", "test", undefined);
  readonly hello = this.written();

  constructor(credits = 4) {
    assert.deepEqual(this.hear(frame(Wire.WELCOME, { header: { version: 1 }, credits })), ["greeted"]);
  }

  /** What has been written since the last time. */
  written(): Read[] {
    return readFrames(new Uint8Array(Buffer.concat(this.conversation.outbox.splice(0))))[0];
  }

  /** What follows when bytes come: the events' types, with the ids of calls. */
  hear(bytes: Uint8Array): string[] {
    return this.events(bytes).map((event) => ("call" in event ? `${event.type} ${event.call.id}` : event.type));
  }

  events(bytes: Uint8Array): Event[] {
    return this.conversation.received(bytes.slice());
  }

  call(now = 0, deadline = 1000): Call {
    const call = this.unsent(deadline);
    this.conversation.send(call, now);
    return call;
  }

  unsent(deadline: number): Call {
    return new Call(Type.INFER, deadline, 1000, (_: Outcome) => {}, encodeRequest("echo", { text: "x" }));
  }

  /** What follows when a call's time is up. */
  expire(call: Call): string[] {
    return this.conversation.abandon(call, call.deadline).map(({ type }) => type);
  }

  status(): Call {
    const call = new Call(Type.STATUS, 1000, 1000, () => {});
    this.conversation.send(call, 0);
    return call;
  }
}

const large = (id: bigint) =>
  frame(Wire.RESULT, {
    id,
    header: { outputs: [["y", "UINT8", [100_000], 0]] },
    payload: new Uint8Array(100_000),
    credits: 1,
  });

test("HELLO is the first thing that is written, and ids count upwards from 1", () => {
  const link = new Link();
  assert.deepEqual(
    link.hello.map(({ type, id, header }) => [type, id, header]),
    [[Type.HELLO, 0n, { versions: [1, 1], client: "test" }]],
  );
  assert.deepEqual([link.call().id, link.status().id, link.call().id], [1n, 2n, 3n]);
  assert.deepEqual(
    link.written().map(({ type, id }) => [type, id]),
    [
      [Type.INFER, 1n],
      [Type.STATUS, 2n],
      [Type.INFER, 3n],
    ],
  );
});

test("answers in any order settle their own calls", () => {
  const link = new Link();
  const calls = [link.call(), link.call(), link.call()];
  assert.deepEqual(
    calls.reverse().flatMap(({ id }) => link.hear(resultFrame(id, {}, 4))),
    ["answered 3", "answered 2", "answered 1"],
  );
  assert.ok(link.conversation.idle);
});

test("a window is the whole window: it grows, shrinks, and 0 says nothing", () => {
  const link = new Link(3);
  const calls = [link.call(), link.call(), link.call()];
  assert.equal(link.conversation.hasCredit, false);
  link.hear(frame(Wire.CREDIT, { credits: 4 }));
  assert.equal(link.conversation.hasCredit, true);
  link.hear(frame(Wire.CREDIT, { credits: 1 }));
  link.hear(resultFrame(calls[0]!.id, {}, 0));
  link.hear(resultFrame(calls[1]!.id, {}, 0));
  assert.equal(link.conversation.hasCredit, false);
  link.hear(resultFrame(calls[2]!.id, {}, 0));
  assert.equal(link.conversation.hasCredit, true);
  link.call();
  link.status();
  assert.equal(link.conversation.hasCredit, false, "and STATUS does not count");
});

test("giving up cancels; the credit comes back with the answer, and not before", () => {
  const link = new Link(1);
  const call = link.call();
  link.written();
  link.conversation.abandon(call, 0);
  link.conversation.abandon(call, 0);
  assert.deepEqual(
    link.written().map(({ type, id }) => [type, id]),
    [[Type.CANCEL, 1n]],
  );
  assert.equal(link.conversation.hasCredit, false);
  assert.deepEqual(link.hear(large(1n)), []);
  assert.equal(link.conversation.hasCredit, true);
  assert.deepEqual(link.hear(large(1n)), [], "an answer to nothing");
  link.call();
  assert.equal(link.conversation.hasCredit, false);
});

test("giving up in the middle of an answer, which is read on to its end", () => {
  const link = new Link(1);
  const call = link.call();
  const bytes = large(1n);
  link.hear(bytes.subarray(0, 50_000));
  link.conversation.abandon(call, 0);
  assert.deepEqual(link.hear(bytes.subarray(50_000)), []);
  assert.equal(link.conversation.hasCredit, true);
  const next = link.call();
  assert.deepEqual(link.hear(resultFrame(next.id, { n: 1 }, 1)), ["answered 2"]);
});

test("a STATUS that is given up is not cancelled, and its answer is forgotten", () => {
  const link = new Link();
  const call = link.status();
  link.written();
  link.conversation.abandon(call, 0);
  assert.deepEqual(link.written(), []);
  assert.deepEqual(link.hear(frame(Wire.STATUS, { id: 1n, payload: encode({}), hasValues: true })), []);
});

test("an answer of the wrong kind, or one that cannot be read, fails its call only", () => {
  const link = new Link();
  const [first, second, third] = [link.call(), link.call(), link.call()];
  const [wrong] = link.events(frame(Wire.PONG, { id: first!.id }));
  assert.ok(
    wrong?.type === "failed" &&
      wrong.error instanceof ProtocolError &&
      /answered INFER with PONG/.test(wrong.error.message),
  );
  const [misfit] = link.events(
    frame(Wire.RESULT, {
      id: second!.id,
      header: { outputs: [["y", "UINT8", [10], 0]] },
      payload: new Uint8Array(5000),
    }),
  );
  assert.ok(misfit?.type === "failed" && misfit.error instanceof ProtocolError && misfit.error.requestId === 2);
  assert.deepEqual(link.hear(resultFrame(third!.id, {}, 4)), ["answered 3"]);
});

test("a message of a later version is skipped, and its credits count", () => {
  const link = new Link(1);
  link.call();
  assert.deepEqual(link.hear(frame(99, { id: 1n, payload: new Uint8Array(10_000), credits: 2 })), []);
  assert.equal(link.conversation.hasCredit, true);
});

test("deadline_ms is what is left, rounded up, and never negative", () => {
  const link = new Link();
  for (const now of [0, 749.5, 1000, 2000]) link.call(now);
  assert.deepEqual(
    link.written().map(({ header }) => header["deadline_ms"]),
    [1000, 251, 0, 0],
  );
});

test("after GOAWAY nothing may be sent, what was sent is answered, and it is said once", () => {
  const link = new Link();
  const call = link.call();
  const goaway = frame(Wire.GOAWAY, { header: { reason: "DRAINING" } });
  assert.deepEqual(link.hear(goaway), ["going"]);
  assert.deepEqual(link.hear(goaway), []);
  assert.deepEqual([link.conversation.usable, link.conversation.idle], [false, false]);
  assert.deepEqual(link.hear(resultFrame(call.id, {}, 4)), ["answered 1"]);
  assert.ok(link.conversation.idle);
});

test("what the server did not take because it is leaving is moved, and DRAINING says as much as GOAWAY", () => {
  const link = new Link();
  for (const id of [1n, 2n]) assert.equal(link.call().id, id);
  const draining = (id: bigint) =>
    frame(Wire.ERROR, { id, header: { code: "UNAVAILABLE", reason: "DRAINING", retryable: true } });
  assert.deepEqual(link.hear(draining(2n)), ["going", "moved 2"]);
  assert.equal(link.conversation.usable, false);
  assert.deepEqual(link.hear(frame(Wire.GOAWAY)), []);
  assert.deepEqual(link.hear(draining(1n)), ["moved 1"]);
  assert.ok(link.conversation.idle);
});

test("what is unanswered when a server that is leaving closes was not taken, or given up: it is moved", () => {
  const link = new Link();
  link.call();
  link.hear(frame(Wire.GOAWAY));
  const events = link.conversation.lost("");
  assert.deepEqual(
    events.map(({ type }) => type),
    ["moved", "ended"],
  );
  assert.deepEqual(link.conversation.lost(""), []);
});

test("bytes that are not the protocol end it: what was sent fails, and nothing is heard afterwards", () => {
  const link = new Link();
  link.call();
  link.written();
  assert.deepEqual(link.hear(new TextEncoder().encode("HTTP/1.1 502 Bad Gateway")), ["failed 1", "ended"]);
  assert.deepEqual(link.hear(frame(Wire.PING)), []);
  assert.deepEqual(link.written(), []);
});

test("after a long silence a timeout ends the conversation for new calls; what was sent may still be answered", () => {
  const link = new Link();
  const slow = link.call(0, 500_000);
  const call = link.call(5_000, 20_000);
  assert.deepEqual(link.expire(call), ["going"]);
  assert.deepEqual([link.conversation.usable, link.conversation.silent], [false, true]);
  assert.deepEqual(link.hear(frame(Wire.GOAWAY)), [], "which changes nothing, and is not said twice");
  assert.deepEqual(link.hear(resultFrame(slow.id, {}, 4)), ["answered 1"]);
});

test("a silent connection that ends is lost for those on it", () => {
  const link = new Link();
  const call = link.call(0, 20_000);
  link.call(0, 500_000);
  link.expire(call);
  assert.deepEqual(
    link.conversation.lost("").map(({ type }) => type),
    ["failed", "ended"],
  );
});

test("silence adds up over short calls, each of which is over long before", () => {
  const link = new Link(100);
  for (const now of [0, 5_000, 10_000, 15_000, 18_500]) {
    assert.deepEqual(link.expire(link.call(now, now + 1_000)), []);
  }
  assert.deepEqual(link.expire(link.call(19_500, 20_500)), ["going"]);
});

test("whoever says anything is there, and a call that is given up says nothing of the connection", () => {
  const link = new Link();
  const slow = link.call(0, 30_000);
  const quick = link.call();
  link.hear(resultFrame(quick.id, {}, 4));
  assert.deepEqual(link.expire(slow), []);
  const left = link.call(0, 500_000);
  assert.deepEqual(link.conversation.abandon(left, 499_999), []);
  assert.ok(link.conversation.usable);
});

test("a call that waited for a credit in vain counts as one that was sent: the silent server has the credits", () => {
  const link = new Link(1);
  assert.deepEqual(link.expire(link.unsent(100_000)), [], "nothing was asked, so silence is no wonder");
  assert.deepEqual(link.expire(link.call(0, 1_000)), []);
  link.written();
  assert.deepEqual(link.expire(link.unsent(19_999)), []);
  assert.deepEqual(link.expire(link.unsent(20_000)), ["going"]);
  assert.deepEqual(link.written(), [], "and there is nothing to cancel");
});
