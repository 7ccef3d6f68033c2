// When which transport is taken.

import assert from "node:assert/strict";
import { test } from "node:test";
import { Rig } from "./rig.js";

/** Failing attempts, and what was tried. */
const tried = (rig: Rig, attempts: number) =>
  Array.from({ length: attempts }, () => {
    const { transport } = rig;
    rig.lose(transport === "sse" ? {} : { code: 1006 }).retry();
    return transport;
  });

/** What HTTP answers, and the attempts that follow. */
const where = (http: Rig["http"], setup: ConstructorParameters<typeof Rig>[0] = {}) => {
  const rig = new Rig(setup);
  rig.http = http;
  return rig.start();
};

const WORKS = { status: 200 };

test("a WebSocket that does not open twice, while HTTP answers, is blocked: both are tried in turn", () => {
  assert.deepEqual(tried(where(WORKS), 6), ["websocket", "websocket", "sse", "websocket", "websocket", "sse"]);
});

test("one that hangs while HTTP answers is blocked at once", () => {
  assert.equal(where(WORKS).pass(10_000).retry().transport, "sse");
});

test("a server that is away, or full, or does not let the page read, says nothing about WebSockets", () => {
  for (const http of [{}, { status: 503 }, { status: 404 }, { status: 502 }, { isUnreadable: true }, undefined]) {
    assert.deepEqual(new Set(tried(where(http), 20)), new Set(["websocket"]), JSON.stringify(http));
    const rig = where(http);
    for (let i = 0; i < 5; i++) rig.pass(10_000).retry();
    assert.equal(rig.transport, "websocket", JSON.stringify(http));
  }
});

test("HTTP is asked at the address that the stream would have, and with what it says too late nothing is done", () => {
  const rig = where(undefined, { urls: ["http://a/x", "http://b"], subscription: { filter: "*.cpu" } }).lose();
  const [ask] = rig.took().filter((action) => action.type === "ask");
  assert.equal(ask?.type === "ask" && ask.url, "http://a/x/sse?filter=*.cpu");
  rig.retry().welcome();
  for (let i = 0; i < 5; i++) rig.machine.answered(ask?.type === "ask" ? ask.question : 0, WORKS, rig.now);
  rig.lose().retry();
  assert.equal(rig.transport, "websocket");
});

test("once a WebSocket has opened, an outage sends no client to events, even if HTTP is back a moment sooner", () => {
  const rig = where({}).welcome();
  tried(rig, 10);
  rig.http = WORKS;
  tried(rig, 3);
  assert.equal(rig.transport, "websocket");
  rig.welcome();
  assert.deepEqual(tried(rig, 3), ["websocket", "websocket", "websocket"], "it begins to count anew");
});

test("where WebSockets have worked and are blocked now, events come a little later", () => {
  assert.equal(tried(where(WORKS).welcome(), 6).indexOf("sse"), 5, "one that broke, and four that did not open");
  const hanging = where(WORKS).welcome().lose().retry();
  assert.equal(hanging.pass(10_000).retry().transport, "websocket");
  assert.equal(hanging.pass(10_000).retry().transport, "sse");
});

test("a connection that was open and broke is no sign of a block", () => {
  const rig = where(WORKS);
  for (let i = 0; i < 5; i++) rig.welcome().lose().retry();
  assert.equal(rig.transport, "websocket");
});

test("a token function that fails or takes its time counts for nothing, and has a bound of its own", () => {
  const rig = where(WORKS, { urls: ["http://a", "http://b"], renewsToken: true });
  for (let i = 0; i < 5; i++) rig.lose({ isOurs: true, error: { code: "token", message: "no" } }).retry();
  assert.deepEqual([rig.transport, new URL(rig.url).host], ["websocket", "a"]);
  const slow = new Rig({ renewsToken: true });
  slow.hasToken = false;
  slow.http = WORKS;
  slow.start().pass(29_999);
  assert.equal(slow.state, "connecting");
  slow.took();
  slow.pass(1);
  const [error] = slow.took().flatMap((action) => (action.type === "error" ? [action.error] : []));
  assert.deepEqual([slow.state, error?.code, error?.fatal], ["waiting", "token", false]);
  assert.equal(slow.retry().transport, "websocket");
});

test("the time to connect begins when the token is there", () => {
  const rig = new Rig({ renewsToken: true });
  rig.hasToken = false;
  rig.start().pass(25_000).machine.dialled(rig.link, rig.now);
  rig.pass(9_999);
  assert.equal(rig.state, "connecting");
  assert.equal(rig.pass(1).state, "waiting");
});

const policy = (rig: Rig) => rig.lose({ isForbidden: true, error: { code: "policy", message: "connect-src" } });

test("what the page's policy forbids is not tried again, and the other transport is at once", () => {
  const rig = where(WORKS);
  policy(rig);
  assert.deepEqual([rig.state, rig.delayMs], ["waiting", 0]);
  const [error] = rig.took().flatMap((action) => (action.type === "error" ? [action.error] : []));
  assert.deepEqual([error?.code, error?.fatal], ["policy", false]);
  rig.retry().welcome().took();
  assert.equal(rig.transport, "sse");
  for (let i = 0; i < 60; i++) rig.pass(10_000).metrics("M");
  assert.deepEqual(
    rig.took().filter(({ type }) => type === "probe"),
    [],
  );
  assert.deepEqual(new Set(tried(rig, 5)), new Set(["sse"]));
});

test("a page whose policy forbids everything is told so, for good", () => {
  const rig = where(WORKS);
  policy(policy(rig).retry());
  assert.equal(rig.state, "closed");
  const errors = rig.took().flatMap((action) => (action.type === "error" ? [action.error] : []));
  assert.deepEqual(
    errors.map(({ code, fatal }) => [code, fatal]),
    [
      ["policy", false],
      ["policy", true],
    ],
  );
  const two = where(WORKS, { urls: ["http://a", "http://b"], transports: ["websocket"] });
  assert.equal(policy(two).state, "waiting", "another address may be allowed");
  assert.equal(policy(two.retry()).state, "closed");
});

test("only what is allowed is tried", () => {
  assert.deepEqual(new Set(tried(where(WORKS, { transports: ["websocket"] }), 5)), new Set(["websocket"]));
  assert.deepEqual(new Set(tried(where(WORKS, { transports: ["sse"] }), 5)), new Set(["sse"]));
});

test("where events are preferred they stay so", () => {
  const rig = where(WORKS, { transports: ["sse", "websocket"] }).welcome();
  for (let i = 0; i < 30; i++) rig.pass(10_000).metrics("M");
  assert.deepEqual(
    rig.took().filter(({ type }) => type === "probe"),
    [],
  );
  assert.deepEqual(tried(rig, 4), ["sse", "sse", "websocket", "sse"]);
});

test("a page that may not read from the node is told which key of the node it is about", () => {
  const rig = where({ isUnreadable: true }, { origin: "https://dash.example" });
  tried(rig, 10);
  const errors = rig.took().flatMap((action) => (action.type === "error" ? [action.error] : []));
  assert.deepEqual(
    errors.map(({ code, fatal }) => [code, fatal]),
    [["refused_page", false]],
    "once",
  );
  assert.match(errors[0]?.message ?? "", /https:\/\/dash\.example.*server\.allowed_origins/);
  const worked = where({ isUnreadable: true }).welcome();
  tried(worked, 10);
  assert.deepEqual(
    worked.took().filter(({ type }) => type === "error"),
    [],
    "one that was let in before is not",
  );
});

test("what HTTP refuses for good ends it with the server's words, also where only WebSockets are allowed", () => {
  const http = { status: 400, error: { code: "bad_filter", message: "write `*.cpu`" } };
  const rig = where(http, { transports: ["websocket"] }).lose();
  const [error] = rig.took().flatMap((action) => (action.type === "error" ? [action.error] : []));
  assert.deepEqual([rig.state, error?.code, error?.fatal], ["closed", "bad_filter", true]);
  const token = { status: 401, error: { code: "unauthorized", message: "expired" } };
  assert.equal(where(token).lose().state, "closed");
  const renewed = where(token, { renewsToken: true }).lose();
  const [told] = renewed.took().flatMap((action) => (action.type === "error" ? [action.error] : []));
  assert.deepEqual([renewed.state, told?.code, told?.fatal], ["waiting", "unauthorized", false]);
  assert.equal(where({ status: 403 }).lose().state, "waiting", "a page of a proxy is no word of the server");
});

test("an address that serves no clients is told, once, and asked again", () => {
  const rig = where({ status: 404, error: { code: "unknown_path", message: "this node is in the role ingest" } });
  tried(rig, 10);
  const errors = rig.took().flatMap((action) => (action.type === "error" ? [action.error] : []));
  assert.deepEqual(
    errors.map(({ code, fatal }) => [code, fatal]),
    [["unknown_path", false]],
  );
  assert.equal(rig.transport, "websocket");
});

test("a full node is asked again no sooner than it says over HTTP, where a WebSocket hides it", () => {
  const rig = where({ status: 503, retryAfterMs: 7_000, error: { code: "capacity", message: "full" } }).lose();
  for (let i = 0; i < 6; i++) rig.pass(1_000).machine.wake(rig.now);
  rig.pass(999);
  assert.equal(rig.state, "waiting");
  rig.machine.wake(rig.now);
  assert.equal(rig.state, "waiting");
  const { state } = rig.machine;
  assert.ok(state.state === "waiting" && state.reason === "full" && state.delayMs >= 7_000, "and says so");
  rig.pass(1_001);
  assert.equal(rig.state, "connecting");
});

const onSse = () => {
  const rig = where(WORKS, { subscription: { snapshot: true } })
    .lose()
    .retry()
    .lose()
    .retry();
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
  const rig = where(WORKS)
    .lose()
    .retry()
    .lose()
    .retry()
    .lose({ status: 404, error: { code: "unknown_path", message: "…" } });
  assert.equal(rig.state, "waiting");
  rig.retry();
  assert.equal(rig.transport, "websocket");
});
