// Frames, events, the queue of an iterator, and the store of series.

import assert from "node:assert/strict";
import { test } from "node:test";
import { connect } from "../../src/index.js";
import { decode, type Metric } from "../../src/protocol.js";
import { Queue } from "../../src/queue.js";
import { sseParser } from "../../src/sse.js";
import { SeriesStore } from "../../src/store.js";

test("an address that is none is said to be none", () => {
  for (const url of ["127.0.0.1:9090", "localhost:9090", "", "ftp://edge/"])
    assert.throws(() => connect({ url }), {
      name: "TypeError",
      message: `connect: \`${url}\` is no address: it looks like http://HOST:PORT`,
    });
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
  assert.deepEqual(decode("# offset A1\n# from A0 conflated 7\ncpu x=1 1"), {
    type: "lines",
    offset: "A1",
    from: "A0",
    conflated: 7,
    lines: "cpu x=1 1",
  });
  assert.throws(() => decode("<html>"), SyntaxError);
});

test("events are read however their bytes are cut", () => {
  const stream =
    ': hello\r\nretry: 100\r\n\r\nid: A\r\ndata: {"a":\r\ndata:1}\r\n\r\n:x\n\ndata: two\rdata\rid\r\r\nevent: e\ndata:  three\n\ndata: unfinished';
  for (let size = 1; size <= stream.length; size++) {
    const events: [string, string | undefined][] = [];
    let comments = 0;
    const parse = sseParser(
      (data, id) => events.push([data, id]),
      () => comments++,
    );
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
  }
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
