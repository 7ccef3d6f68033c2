// When which transport is taken.

import assert from "node:assert/strict";
import { test } from "node:test";
import { Rig } from "./rig.js";

/** Failing attempts, and what was tried. */
const tried = (rig: Rig, attempts: number) =>
  Array.from({ length: attempts }, () => {
    const { transport } = rig;
    rig.lose().retry();
    return transport;
  });

test("a WebSocket that does not open twice is blocked, or the server is away: both are tried in turn", () => {
  assert.deepEqual(tried(new Rig().start(), 6), ["websocket", "websocket", "sse", "websocket", "websocket", "sse"]);
});

test("one that hangs is blocked at once", () => {
  const rig = new Rig().start().pass(10_000).retry();
  assert.equal(rig.transport, "sse");
});

test("a connection that was open and broke is no sign of a block", () => {
  const rig = new Rig().start();
  for (let i = 0; i < 5; i++) rig.welcome().lose().retry();
  assert.equal(rig.transport, "websocket");
});

test("only what is allowed is tried", () => {
  assert.deepEqual(new Set(tried(new Rig({ transports: ["websocket"] }).start(), 5)), new Set(["websocket"]));
  assert.deepEqual(new Set(tried(new Rig({ transports: ["sse"] }).start(), 5)), new Set(["sse"]));
});

const onSse = () => {
  const rig = new Rig({ subscription: { snapshot: true } }).start().lose().retry().lose().retry();
  assert.equal(rig.transport, "sse");
  rig.welcome(null).snapshot(1, 1).took();
  return rig;
};

test("from a stream of events there is a way back to WebSockets, which loses no place", () => {
  const rig = onSse();
  for (let i = 0; i < 5; i++) rig.pass(10_000).metrics(`M${i}`);
  rig.took();
  rig.pass(10_000);
  assert.deepEqual(rig.took(), [{ type: "probe", url: "ws://edge-1/ws" }], "a trial asks for no history");
  assert.equal(rig.state, "open", "meanwhile the stream goes on");
  rig.metrics("M9").machine.probed(true, rig.now);
  assert.equal(rig.url, "ws://edge-1/ws?snapshot=true&from=M9");
  rig.welcome("M9");
  assert.deepEqual(rig.machine.state, { state: "open", transport: "websocket", url: "http://edge-1/" });
});

test("a trial that fails is repeated later", () => {
  const rig = onSse();
  for (const _ of [1, 2, 3]) {
    for (let i = 0; i < 6; i++) rig.pass(10_000).metrics("M");
    assert.equal(rig.took().filter(({ type }) => type === "probe").length, 1);
    rig.machine.probed(false, rig.now);
  }
});

test("a stream that breaks is followed by a stream", () => {
  const rig = onSse().lose({}).retry();
  assert.equal(rig.transport, "sse");
});

test("a server without streams is no reason to give up", () => {
  const rig = new Rig()
    .start()
    .lose()
    .retry()
    .lose()
    .retry()
    .lose({ status: 404, error: { code: "unknown_path", message: "…" } });
  assert.equal(rig.state, "waiting");
  rig.retry();
  assert.equal(rig.transport, "websocket");
});
