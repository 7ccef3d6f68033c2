// The client as it is used, on WebSockets and answers that a test makes up.

import assert from "node:assert/strict";
import { afterEach, test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { connect, type Client, type Options } from "../../src/index.js";
import type { Message, ServerMessage } from "../../src/protocol.js";

const opened: Client[] = [];
afterEach(() => opened.splice(0).forEach((client) => client.close()));

/** A WebSocket whose server is the test. */
class Socket {
  static all: Socket[] = [];
  onopen: (() => void) | null = null;
  onmessage: ((event: { data: string }) => void) | null = null;
  onclose: ((event: { code: number; reason: string }) => void) | null = null;
  onerror: (() => void) | null = null;
  sent: string[] = [];
  closed = false;
  terminated = false;

  constructor(readonly url: string) {
    Socket.all.push(this);
  }
  send(text: string) {
    this.sent.push(text);
  }
  close() {
    this.closed = true;
  }
  terminate() {
    this.terminated = true;
  }
  say(message: ServerMessage) {
    this.onmessage?.({ data: JSON.stringify(message) });
  }
  metrics(n: number, more = "") {
    this.say({
      type: "metrics",
      offset: `O${n}`,
      collector: "c",
      metrics: [{ name: "m", tags: { more }, fields: { n }, timestamp: n }],
    });
  }
}

const WebSocket = Socket as unknown as NonNullable<Options["WebSocket"]>;
const noHttp = (() => Promise.reject(new TypeError("fetch failed"))) as typeof fetch;

/** What the test waits for comes within a turn or two of the loop. */
const until = async (look: () => unknown): Promise<void> => {
  for (let i = 0; i < 2_000 && !look(); i++) await sleep(1);
  assert.ok(look());
};

const start = async (options: Options = {}): Promise<{ client: Client; socket: Socket }> => {
  Socket.all = [];
  const client = connect({ url: "http://edge", WebSocket, fetch: noHttp, timing: { backoffBaseMs: 1 }, ...options });
  opened.push(client);
  await until(() => Socket.all.length === 1);
  const [socket] = Socket.all as [Socket];
  socket.onopen?.();
  socket.say({ type: "welcome", offset: "O0", heartbeat_ms: 15_000, node: "n", session: "s" });
  return { client, socket };
};

const nOf = (message: Message | undefined) =>
  message?.type === "metrics" ? message.metrics[0]?.fields["n"] : message?.type;

test("a loop that was cancelled while it waited takes no message with it", async () => {
  const { client, socket } = await start();
  const first = client[Symbol.asyncIterator]();
  const waiting = [first.next(), first.next()];
  await first.return?.();
  assert.deepEqual(await Promise.all(waiting), [
    { done: true, value: undefined },
    { done: true, value: undefined },
  ]);
  socket.metrics(1);
  assert.equal(client.offset, "O0", "resumable as long as nobody was given it");
  assert.deepEqual(await first.next(), { done: true, value: undefined });
  const second = client[Symbol.asyncIterator]();
  await first.return?.();
  assert.equal(nOf((await second.next()).value), 1, "and a late return() of the first ends no other");
});

test("an iterator can be iterated, and two at once are refused", async () => {
  const { client, socket } = await start();
  const iterator = client[Symbol.asyncIterator]();
  assert.throws(() => client[Symbol.asyncIterator](), TypeError);
  socket.metrics(1);
  for await (const message of iterator) {
    assert.equal(nOf(message), 1);
    break;
  }
  client[Symbol.asyncIterator]();
});

test("a loop that was left holds up no listener, and the next one is told what only listeners got", async () => {
  const { client, socket } = await start({ bufferMax: 5 });
  const heard: unknown[] = [];
  client.on("metrics", (message) => heard.push(nOf(message)));
  socket.metrics(1);
  const loop = (async () => {
    for await (const message of client) return nOf(message);
    return undefined;
  })();
  await sleep(1);
  socket.metrics(2);
  assert.equal(await loop, 2);
  for (let n = 3; n <= 20; n++) socket.metrics(n);
  assert.deepEqual(
    heard,
    Array.from({ length: 20 }, (_, index) => index + 1),
  );
  assert.deepEqual([client.state.state, client.offset], ["open", "O20"]);
  const next = client[Symbol.asyncIterator]();
  socket.metrics(21);
  assert.deepEqual((await next.next()).value, { type: "gap", from: "O2", to: "O20", reason: "slow" });
  assert.equal(nOf((await next.next()).value), 21);
});

test("where nobody listens a loop that was left pauses the connection, and a listener goes on with it", async () => {
  const { client, socket } = await start({ bufferMax: 5 });
  client[Symbol.asyncIterator]().return?.();
  for (let n = 1; n <= 5; n++) socket.metrics(n);
  assert.equal(client.state.state, "paused");
  assert.equal(client.offset, "O0");
  client.on("metrics", () => {});
  assert.equal(client.state.state, "connecting");
});

test("a loop that is left while the connection is paused for it lets listeners go on", async () => {
  const { client, socket } = await start({ bufferMax: 5 });
  client.on("metrics", () => {});
  const iterator = client[Symbol.asyncIterator]();
  for (let n = 1; n <= 5; n++) socket.metrics(n);
  assert.equal(client.state.state, "paused");
  await iterator.return?.();
  assert.equal(client.state.state, "connecting");
});

test("the buffer of a loop is bounded in bytes, too", async () => {
  const { client, socket } = await start({ bufferBytesMax: 100_000 });
  const iterator = client[Symbol.asyncIterator]();
  let sent = 0;
  while (client.state.state === "open" && sent < 1_000) socket.metrics(++sent, "x".repeat(10_000));
  assert.deepEqual([client.state.state, sent], ["paused", 10]);
  for (let n = 1; n <= 10; n++) assert.equal(nOf((await iterator.next()).value), n);
  assert.notEqual(client.state.state, "paused");
});

test("a change that nobody waited for, and that comes to nothing by close(), is no unhandled rejection", async () => {
  const unhandled: unknown[] = [];
  const note = (error: unknown) => unhandled.push(error);
  process.on("unhandledRejection", note);
  const { client } = await start();
  void client.subscribe({ filter: "*.a" });
  void client.replay("latest");
  client.close();
  void client.subscribe({ filter: "*.b" });
  await assert.rejects(client.subscribe({ filter: "*.c" }), { code: "closed" });
  await sleep(5);
  process.off("unhandledRejection", note);
  assert.deepEqual(unhandled, []);
});

test("a WebSocket that fails without a close is noticed at once", async () => {
  for (const isOpen of [false, true]) {
    const { client, socket } = await start();
    const states: string[] = [];
    client.on("state", ({ state }) => states.push(state));
    if (isOpen) {
      socket.onerror?.();
    } else {
      socket.onclose?.({ code: 1006, reason: "" });
      await until(() => Socket.all.length === 2);
      Socket.all[1]?.onerror?.();
    }
    await until(() => states.filter((state) => state === "waiting").length === (isOpen ? 1 : 2));
    client.close();
  }
});

test("a peer that does not answer to a farewell is left behind", async () => {
  const { client, socket } = await start();
  client.close();
  assert.deepEqual([socket.closed, socket.terminated], [true, false]);
  await sleep(1_100);
  assert.ok(socket.terminated);
});

test("a constructor that throws is told, and the fall-back is tried at once", async () => {
  const asked: string[] = [];
  const Throws = class {
    constructor() {
      throw new Error("An insecure WebSocket may not be made from this page");
    }
  } as unknown as NonNullable<Options["WebSocket"]>;
  const fetch = (async (url: string) => {
    asked.push(url);
    return new Response(new ReadableStream(), { headers: { "content-type": "text/event-stream" } });
  }) as typeof globalThis.fetch;
  const client = connect({ url: "http://edge", WebSocket: Throws, fetch });
  opened.push(client);
  const errors: string[] = [];
  client.on("error", ({ code, message }) => errors.push(`${code} ${message}`));
  await until(() => asked.length === 1);
  assert.deepEqual(asked, ["http://edge/sse"]);
  assert.deepEqual(errors, ["policy An insecure WebSocket may not be made from this page"]);
});

test("the network's return is heard in workers, which have no page", async () => {
  const scope = globalThis as { addEventListener?: unknown };
  const listeners = new Map<string, (event: { type: string }) => void>();
  scope.addEventListener = (type: string, listener: () => void) => listeners.set(type, listener);
  try {
    const { client, socket } = await start({ timing: { backoffBaseMs: 1_000_000, backoffMaxMs: 1_000_000 } });
    socket.onclose?.({ code: 1006, reason: "" });
    await until(() => client.state.state === "waiting");
    listeners.get("online")?.({ type: "online" });
    assert.equal(client.state.state, "connecting");
  } finally {
    delete scope.addEventListener;
  }
});

test("a listener that is added twice is called twice, and each ends for itself", async () => {
  const { client, socket } = await start();
  let heard = 0;
  const listener = () => void heard++;
  const leave = client.on("metrics", listener);
  client.on("metrics", listener);
  socket.metrics(1);
  leave();
  socket.metrics(2);
  assert.equal(heard, 3);
});

/** A server of streams and polls in a browser, which has six connections for it. */
const browserWith = (streams: Set<string>, polled: string[]) =>
  (async (input: string, { signal }: { signal: AbortSignal }) => {
    const url = new URL(input);
    const filter = url.searchParams.get("filter") as string;
    if (url.pathname === "/api/metrics/poll") {
      polled.push(filter);
      return Response.json({ messages: [], next: `P${polled.length}` });
    }
    streams.add(filter);
    const body = new ReadableStream({
      start(controller) {
        const offset = url.searchParams.get("from") ?? "S";
        const message = JSON.stringify({ type: "welcome", offset, heartbeat_ms: 15_000, node: "n", session: "s" });
        controller.enqueue(new TextEncoder().encode(`data: ${message}\n\n`));
        signal.addEventListener("abort", () => {
          streams.delete(filter);
          controller.error(new Error("aborted"));
        });
      },
    });
    return new Response(body, { headers: { "content-type": "text/event-stream" } });
  }) as unknown as typeof fetch;

test("a browser's connections to a host are not taken by streams: clients beyond three poll, until one is free", async () => {
  const scope = globalThis as { location?: unknown };
  scope.location = { href: "http://page/", origin: "http://page" };
  try {
    const [streams, polled] = [new Set<string>(), [] as string[]];
    const fetch = browserWith(streams, polled);
    const clients = Array.from({ length: 8 }, (_, index) =>
      connect({ url: "http://edge", filter: `*.f${index}`, transports: ["sse"], fetch }),
    );
    opened.push(...clients);
    await until(() => clients.every(({ state }) => state.state === "open"));
    assert.equal(streams.size, 3);
    assert.equal(new Set(polled).size, 5);
    const states: string[] = [];
    clients.forEach((client) => client.on("state", ({ state }) => states.push(state)));
    clients.filter((_, index) => streams.has(`*.f${index}`))[0]?.close();
    await until(() => streams.size === 3);
    assert.deepEqual(states, ["closed"], "the one that takes the place of it does not notice");
    assert.equal(clients.filter(({ state }) => state.state === "open").length, 7);
    clients.forEach((client) => client.close());
    await until(() => streams.size === 0);
  } finally {
    delete scope.location;
  }
});
