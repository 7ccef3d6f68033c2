// Frames, events, the queue of an iterator, and the store of series.

import assert from "node:assert/strict";
import { test } from "node:test";
import { baseAddress, edge } from "../../src/address.js";
import { retryAfterMs } from "../../src/http.js";
import { connect, type WebSocketConstructor } from "../../src/index.js";
import { decode, type Metric } from "../../src/protocol.js";
import { Queue } from "../../src/queue.js";
import { sseParser } from "../../src/sse.js";
import { SeriesStore, type Series } from "../../src/store.js";

test("an address that is none is said to be none", () => {
  for (const url of ["127.0.0.1:9090", "localhost:9090", "", "ftp://edge/"])
    assert.throws(() => connect({ url }), {
      name: "TypeError",
      message: `connect: \`${url}\` is no address: it looks like http://HOST:PORT`,
    });
});

test("a relative address without a page says what to do where pages are rendered", () => {
  for (const url of ["/", "./", "../metrics", "?filter=a"])
    assert.throws(() => connect({ url }), {
      name: "TypeError",
      message: `connect: \`${url}\` counts from the page, and there is none: on a server, write the whole address, or connect in the browser only`,
    });
});

test("where nothing can connect, it says so at once, and what to pass", () => {
  const there = globalThis as { WebSocket?: unknown; fetch?: unknown };
  const { WebSocket, fetch } = there;
  there.WebSocket = there.fetch = undefined;
  try {
    for (const [transports, message] of [
      [["websocket", "sse"], /^connect: there is no WebSocket and no fetch here: pass one, `connect\({ WebSocket, … }\)`, or connect in/],
      [["websocket"], /^connect: there is no WebSocket here: .*, allow the other of `transports`, or connect in the browser only$/],
      [["sse"], /^connect: there is no fetch here: pass one, `connect\({ fetch, … }\)`/],
    ] as const)
      assert.throws(() => connect({ url: "http://127.0.0.1:9", transports }), { name: "TypeError", message });
    const given = class {} as unknown as WebSocketConstructor;
    connect({ url: "http://127.0.0.1:9", WebSocket: given }).close();
  } finally {
    Object.assign(there, { WebSocket, fetch });
  }
});

test("an address with a fragment is taken without it, one with a password is refused with a reason", () => {
  assert.equal(edge("http://edge:1/x#part", undefined).href, "http://edge:1/x");
  assert.equal(edge("ws://edge/ws?a=1#", undefined).href, "ws://edge/ws?a=1");
  for (const url of ["http://user:secret@edge/", "wss://user@edge/ws"])
    assert.throws(
      () => connect({ url }),
      (error: Error) => /use `token`/.test(error.message) && !/secret/.test(error.message),
    );
});

test("a relative address counts from the page, or from its origin where the page's own address is none", () => {
  const where = globalThis as { location?: unknown; document?: unknown };
  for (const [location, document, expected] of [
    [{ href: "https://a/b/c", origin: "https://a" }, undefined, "https://a/b/c"],
    [{ href: "blob:https://a/6e", origin: "https://a" }, undefined, "https://a"],
    [{ href: "https://a/b/c", origin: "https://a" }, { baseURI: "https://a/base/" }, "https://a/base/"],
    [{ href: "about:srcdoc", origin: "https://a" }, { baseURI: "about:srcdoc" }, "https://a"],
  ] as const) {
    Object.assign(where, { location, document });
    assert.equal(baseAddress(), expected);
  }
  delete where.location;
  delete where.document;
  assert.equal(baseAddress(), undefined);
});

test("a filter that is empty is refused, for it would be everything", async () => {
  const refused = { name: "TelecastError", code: "bad_filter" };
  for (const filter of [[], "", [""], ["*.cpu", ""]]) {
    assert.throws(() => connect({ url: "http://127.0.0.1:9", filter }), refused, JSON.stringify(filter));
    const client = connect({
      url: "http://127.0.0.1:9",
      filter: "*.cpu",
      transports: ["sse"],
      fetch: () => new Promise(() => {}),
    });
    await assert.rejects(client.subscribe({ filter }), refused, JSON.stringify(filter));
    client.close();
  }
  assert.throws(() => connect({ url: "http://127.0.0.1:9", interval: NaN }), { code: "bad_interval" });
  connect({
    url: "http://127.0.0.1:9",
    filter: undefined,
    transports: ["sse"],
    fetch: () => new Promise(() => {}),
  }).close();
});

test("Retry-After is read in seconds and as a date, by the server's clock where it tells it", () => {
  const now = Date.parse("Fri, 27 Nov 2026 10:00:00 GMT");
  for (const [value, date, expected] of [
    ["3", null, 3_000],
    ["0.5", null, 500],
    ["Fri, 27 Nov 2026 10:00:04 GMT", null, 4_000],
    ["Fri, 27 Nov 2026 10:30:04 GMT", "Fri, 27 Nov 2026 10:30:00 GMT", 4_000],
    ["Fri, 27 Nov 2026 09:59:00 GMT", null, undefined],
    ["soon", null, undefined],
    ["-1", null, undefined],
    ["", null, undefined],
    [null, null, undefined],
  ] as const)
    assert.equal(retryAfterMs(value, date, now), expected, `${value} ${date}`);
});

test("frames are read in both formats", () => {
  assert.deepEqual(decode('{"type":"live"}'), { type: "live" });
  assert.deepEqual(decode("# offset A1\ncpu x=1 1\nmem y=2 2\n"), {
    type: "lines",
    offset: "A1",
    lines: "cpu x=1 1\nmem y=2 2\n",
  });
  assert.deepEqual(decode("# offset A1\n# snapshot 2/3\ncpu x=1 1"), {
    type: "lines",
    offset: "A1",
    part: 2,
    parts: 3,
    lines: "cpu x=1 1",
  });
  assert.deepEqual(decode("# offset A1\n# snapshot 2/3\n# incomplete starting\ncpu x=1 1"), {
    type: "lines",
    incomplete: "starting",
    offset: "A1",
    part: 2,
    parts: 3,
    lines: "cpu x=1 1",
  });
  assert.deepEqual(decode("# offset A1\n# from A0 conflated 7\ncpu x=1 1"), {
    type: "lines",
    offset: "A1",
    from: "A0",
    conflated: 7,
    lines: "cpu x=1 1",
  });
  for (const text of ["<html>", "", "null", "5", '"text"', "[object Blob]"])
    assert.throws(() => decode(text), SyntaxError);
});

test("events are read however their bytes are cut", () => {
  const stream =
    ': hello\r\nretry: 100\r\nretry: 1x\nretry\r\n\r\nid: A\r\ndata: {"a":\r\ndata:1}\r\n\r\n:x\n\ndata: two\rdata\rid\r\r\nevent: e\ndata:  three\n\ndata: unfinished';
  for (let size = 1; size <= stream.length; size++) {
    const events: [string, string | undefined][] = [];
    let comments = 0;
    const retries: number[] = [];
    const parse = sseParser({
      onEvent: (data, id) => events.push([data, id]),
      onComment: () => comments++,
      onRetry: (ms) => retries.push(ms),
    });
    for (let at = 0; at < stream.length; at += size) parse(stream.slice(at, at + size));
    assert.deepEqual(
      events,
      [
        ['{"a":\n1}', "A"],
        ["two\n", ""],
        [" three", ""],
      ],
      `pieces of ${size}`,
    );
    assert.equal(comments, 2);
    assert.deepEqual(retries, [100]);
  }
});

test("a long event in many pieces costs no more than its length", () => {
  const events: number[] = [];
  const parse = sseParser({ onEvent: (data) => events.push(data.length), onComment: () => {}, onRetry: () => {} });
  parse("data: ");
  for (let i = 0; i < 20_000; i++) parse("x".repeat(1_000));
  parse("\r");
  parse("\n\r\n");
  assert.deepEqual(events, [20_000_000]);
});

test("a queue gives everything in order, and knows what its reader is done with", async () => {
  const queue = new Queue<number>("O0");
  for (let i = 1; i <= 100; i++) queue.push(i, `O${i}`);
  for (let i = 1; i <= 100; i++) {
    assert.deepEqual(await queue.next(), { done: false, value: i });
    assert.equal(queue.offset, `O${i - 1}`, "the one that is worked on is not done");
  }
  assert.equal(queue.size, 0);
  const waiting = queue.next();
  assert.equal(queue.offset, "O100");
  queue.reached("H");
  assert.equal(queue.offset, "H", "a heartbeat, while the reader waits");
  queue.push(101, "O101");
  assert.deepEqual(await waiting, { done: false, value: 101 });
  queue.reached("H2");
  assert.equal(queue.offset, "H", "a heartbeat, while the reader works");
  queue.end(undefined);
  assert.deepEqual(await queue.next(), { done: true, value: undefined });
  assert.equal(queue.offset, "H2");
});

test("a queue ends with its error, behind what it holds", async () => {
  const queue = new Queue<number>(undefined);
  queue.push(1, undefined);
  queue.end(new Error("over"));
  assert.deepEqual(await queue.next(), { done: false, value: 1 });
  await assert.rejects(queue.next(), /over/);
  assert.deepEqual(await queue.next(), { done: true, value: undefined });
});

test("what a queue gives is given once, in order, however many ask at once", async () => {
  const queue = new Queue<number>("O0");
  const asked = [queue.next(), queue.next(), queue.next()];
  queue.push(1, "O1");
  queue.push(2, "O2");
  queue.push(3, "O3");
  queue.push(4, "O4");
  assert.deepEqual(
    (await Promise.all(asked)).map(({ value }) => value),
    [1, 2, 3],
  );
  assert.deepEqual(await queue.next(), { done: false, value: 4 });
  const two = [queue.next(), queue.next()];
  queue.end(new Error("over"));
  await assert.rejects(two[0] as Promise<unknown>, /over/);
  assert.deepEqual(await two[1], { done: true, value: undefined });
});

test("a reader that leaves while it waits is given nothing, and what comes later stays for the next", async () => {
  const queue = new Queue<number>("O0");
  const asked = [queue.next(), queue.next()];
  queue.leave();
  assert.deepEqual(await Promise.all(asked), [
    { done: true, value: undefined },
    { done: true, value: undefined },
  ]);
  queue.push(1, "O1");
  assert.equal(queue.offset, "O0", "resumable");
  assert.deepEqual(await queue.next(), { done: false, value: 1 });
});

test("a queue knows how many bytes wait", async () => {
  const queue = new Queue<number>(undefined);
  for (let i = 0; i < 10; i++) queue.push(i, undefined, 100);
  assert.equal(queue.bytes, 1_000);
  await queue.next();
  assert.equal(queue.bytes, 900);
});

const metric = (name: string, fields: Metric["fields"], timestamp: number, tags = {}): Metric => ({
  name,
  tags,
  fields,
  timestamp,
});
const metrics = (...metrics: Metric[]) => ({ type: "metrics", offset: "O", collector: "c", metrics }) as const;
const snapshot = (part: number, parts: number, ...metrics: Metric[]) =>
  ({ type: "snapshot", offset: "S", part, parts, collector: "c", metrics }) as const;

test("a store keeps the newest value of every field", () => {
  const store = new SeriesStore();
  store.apply(
    metrics(
      metric("system", { load: 1 }, 10, { a: "1", b: "2" }),
      metric("system", { users: 3 }, 20, { b: "2", a: "1" }),
    ),
  );
  store.apply(metrics(metric("system", { load: 0.5, users: 9 }, 15, { a: "1", b: "2" })));
  assert.equal(store.size, 1);
  assert.deepEqual(store.get("c", "system", { a: "1", b: "2" })?.fields, { load: 0.5, users: 3 });
  assert.equal(store.get("c", "system", { b: "2", a: "1" })?.timestamp, 20);
  assert.equal(store.get("c", "system"), undefined);
});

test("a complete snapshot says what there is, a broken one does not", () => {
  const store = new SeriesStore();
  store.apply(metrics(metric("gone", { x: 1 }, 1), metric("kept", { x: 1 }, 1)));
  store.apply(snapshot(1, 2, metric("kept", { x: 2 }, 2)));
  assert.equal(store.size, 2);
  store.apply(snapshot(1, 2, metric("new", { x: 1 }, 2)));
  store.apply(snapshot(2, 2, metric("late", { x: 1 }, 2)));
  assert.deepEqual(
    [...store].map(({ name }) => name),
    ["new", "late"],
  );
});

test("an incomplete snapshot removes nothing", () => {
  const store = new SeriesStore();
  store.apply(metrics(metric("a", { x: 1 }, 1), metric("b", { x: 1 }, 1)));
  store.apply({ ...snapshot(1, 1, metric("a", { x: 2 }, 2)), incomplete: "starting" });
  assert.equal(store.size, 2);
  assert.deepEqual(store.get("c", "a")?.fields, { x: 2 });
});

test("behind a gap values are uncertain until they come again", () => {
  const store = new SeriesStore();
  store.apply(metrics(metric("a", { x: 1 }, 1), metric("b", { x: 1 }, 1)));
  const changes: string[][] = [];
  const leave = store.subscribe((changed) =>
    changes.push(changed.map(({ name, uncertain }) => name + (uncertain ? "?" : ""))),
  );
  store.apply({ type: "gap", from: "A", to: "B", reason: "retention" });
  store.apply(metrics(metric("a", { x: 2 }, 2), metric("a", { x: 3 }, 3)));
  leave();
  store.apply(metrics(metric("a", { x: 4 }, 4)));
  assert.deepEqual(changes, [["a?", "b?"], ["a"]]);
  assert.equal(store.lastGap?.to, "B");
});

test("a store that is full forgets what was updated longest ago", () => {
  const store = new SeriesStore(undefined, { max: 2 });
  store.apply(
    metrics(metric("a", { x: 1 }, 1), metric("b", { x: 1 }, 1), metric("a", { x: 2 }, 2), metric("c", { x: 1 }, 1)),
  );
  assert.deepEqual(
    [...store].map(({ name }) => name),
    ["a", "c"],
  );
});

/** A view that follows a store by what it is told, and nothing else. */
const following = (store: SeriesStore) => {
  const view = new Map<string, Series>();
  store.subscribe((changed, removed) => {
    for (const { name } of removed) view.delete(name);
    for (const series of changed) view.set(series.name, series);
  });
  return view;
};

test("whoever follows a store is told what went, and has what the store has", () => {
  const store = new SeriesStore(undefined, { max: 3 });
  const view = following(store);
  const check = (what: string) => assert.deepEqual([...view.values()].sort(byName), [...store].sort(byName), what);
  const byName = (a: Series, b: Series) => (a.name < b.name ? -1 : 1);
  store.apply(snapshot(1, 1, metric("a", { x: 1 }, 1), metric("b", { x: 1 }, 1)));
  check("a snapshot");
  store.apply(snapshot(1, 1, metric("a", { x: 2 }, 2)));
  assert.deepEqual([...view.keys()], ["a"]);
  check("a snapshot without b");
  for (const name of ["c", "d", "e", "f"]) store.apply(metrics(metric(name, { x: 1 }, 3)));
  assert.equal(view.size, 3);
  check("more than `max`");
  store.apply(metrics(...["g", "h", "i", "j", "k"].map((name) => metric(name, { x: 1 }, 4))));
  check("more than `max` in one message");
  store.apply({ type: "gap", from: "A", to: "B", reason: "slow" });
  check("a gap");
  store.clear();
  assert.equal(view.size, 0);
});

test("a change makes another object, and leaves those that did not change", () => {
  const store = new SeriesStore();
  store.apply(metrics(metric("a", { x: 1, y: 1 }, 1), metric("b", { x: 1 }, 1)));
  const [a, b, version] = [store.get("c", "a"), store.get("c", "b"), store.version];
  store.apply(metrics(metric("a", { x: 2 }, 2)));
  assert.notEqual(store.get("c", "a"), a);
  assert.notEqual(store.version, version);
  assert.equal(store.get("c", "b"), b);
  assert.deepEqual(
    [a?.fields, store.get("c", "a")?.fields],
    [
      { x: 1, y: 1 },
      { x: 2, y: 1 },
    ],
  );
  store.apply({ type: "gap", from: "A", to: "B", reason: "slow" });
  assert.deepEqual([b?.uncertain, store.get("c", "b")?.uncertain], [false, true]);
  const now = store.version;
  store.apply({ type: "live" });
  assert.equal(store.version, now);
});

test("methods of a store need no `this`", () => {
  const { get, subscribe, apply, clear } = new SeriesStore();
  let told = 0;
  const leave = subscribe(() => told++);
  apply(metrics(metric("a", { x: 1 }, 1)));
  assert.equal(get("c", "a")?.fields["x"], 1);
  leave();
  clear();
  assert.deepEqual([told, get("c", "a")], [1, undefined]);
});

test("a listener's fault costs the other listeners nothing, and one that is added twice is two", async () => {
  const faults: unknown[] = [];
  const onFault = (error: unknown) => faults.push(error);
  const others = process.rawListeners("uncaughtException");
  process.removeAllListeners("uncaughtException").on("uncaughtException", onFault);
  const store = new SeriesStore();
  let told = 0;
  const count = () => void told++;
  store.subscribe(() => {
    throw new Error("bad view");
  });
  const leave = store.subscribe(count);
  store.subscribe(count);
  store.apply(metrics(metric("a", { x: 1 }, 1)));
  leave();
  store.apply(metrics(metric("a", { x: 2 }, 2)));
  assert.equal(told, 3);
  await new Promise((done) => setTimeout(done, 10));
  process.removeAllListeners("uncaughtException");
  for (const other of others) process.on("uncaughtException", other as () => void);
  assert.equal(faults.length, 2, "they are not swallowed");
});

test("names that objects have by themselves are names of fields and tags like any other", () => {
  const store = new SeriesStore();
  const odd = '{"__proto__":"1","constructor":"2","hasOwnProperty":"3"}';
  const names = ["__proto__", "constructor", "hasOwnProperty"];
  for (const timestamp of [1, 2]) store.apply(metrics(metric("p", JSON.parse(odd), timestamp, JSON.parse(odd))));
  store.apply(metrics(metric("p", { more: 1 }, 3, JSON.parse(odd))));
  assert.equal(store.size, 1);
  const series = store.get("c", "p", JSON.parse(odd));
  assert.deepEqual(Object.keys(series?.fields ?? {}).sort(), [...names, "more"].sort());
  store.apply(metrics(metric("p", { x: 1 }, 1), metric("p", { x: 2 }, 1, JSON.parse('{"__proto__":"1"}'))));
  assert.equal(store.size, 3);
});

test("series are told apart by every part of them, in whatever order their tags come", () => {
  const store = new SeriesStore();
  const tags = [
    {},
    { a: "1" },
    { a: "1", b: "2" },
    { a: "1,1 1 b2" },
    { b: "2" },
    { ab: "12" },
    { a: "", b: "" },
    { "": "x" },
  ];
  tags.forEach((one, index) => store.apply(metrics(metric("m", { index }, 1, one))));
  assert.equal(store.size, tags.length);
  for (let round = 2; round < 5; round++)
    for (const one of tags) {
      const turned = Object.fromEntries(Object.entries(one).reverse());
      store.apply(metrics(metric("m", { round }, round, round % 2 ? one : turned)));
      assert.equal(store.get("c", "m", turned)?.fields["round"], round);
    }
  assert.equal(store.size, tags.length);
});

test("series that are not updated for `maxAgeMs` go, also when nothing comes any more", (context) => {
  context.mock.timers.enable({ apis: ["setTimeout", "Date"], now: 1_700_000_000_000 });
  const store = new SeriesStore(undefined, { maxAgeMs: 10_000 });
  const view = following(store);
  store.apply(metrics(metric("a", { x: 1 }, 1), metric("b", { x: 1 }, 1)));
  context.mock.timers.tick(6_000);
  store.apply(metrics(metric("b", { x: 2 }, 2)));
  context.mock.timers.tick(4_000);
  assert.deepEqual([[...view.keys()], store.size], [["b"], 1]);
  store.apply(metrics(metric("c", { x: 2 }, 2)));
  context.mock.timers.tick(6_000);
  assert.deepEqual([[...view.keys()], store.size], [["c"], 1]);
  context.mock.timers.tick(10_000);
  assert.deepEqual([view.size, store.size], [0, 0]);
});
