// In Node.

import assert from "node:assert/strict";
import { after, before, test } from "node:test";
import { connect, SeriesStore, type Options } from "@telecast/client";
import WebSocket from "ws";
import { Cluster, fallsBack, faults, openings, underFault } from "./faults.js";
import { inNode, TIMING, type Reader } from "./readers.js";
import { KEYS, Publisher, Telecast, until } from "./stage.js";

let cluster: Cluster;
before(async () => {
  cluster = await Cluster.start();
});
after(() => cluster.stop());

faults(
  "Node, WebSocket",
  () => cluster,
  (_network, options) => inNode({ ...options, transports: ["websocket"] }),
);

faults(
  "Node, SSE",
  () => cluster,
  (_network, options) => inNode({ ...options, transports: ["sse"] }),
);

faults(
  "Node, line protocol, SSE",
  () => cluster,
  (_network, options) => inNode({ ...options, format: "influx", transports: ["sse"] }),
);

test("Node, line protocol, WebSocket: an edge that is killed costs nothing", () =>
  underFault(
    cluster,
    (_network, options) => inNode(options),
    { format: "influx" },
    async ({ reader, edges, publisher }) => {
      await edges[0].kill();
      await publisher.goesOn(20);
      await until("it is open again", async () => (await openings(reader)) === 2);
    },
  ));

test("Node: where WebSockets are refused it reads events, and returns when they are not", () =>
  fallsBack(cluster, (_network, options) => inNode(options)));

/** A reader that keeps last values, too. */
const intoStore = async (options: Options): Promise<Reader & { store: SeriesStore }> => {
  let store: SeriesStore | undefined;
  const reader = await inNode(options, (client) => (store = new SeriesStore(client)));
  return { ...reader, store: store as SeriesStore };
};

/** The store has the last value of every series, and the reader had no value twice. */
const assertState = async (reader: Reader & { store: SeriesStore }, count: number): Promise<void> => {
  const last = Array.from({ length: KEYS }, (_, index) => count - index).sort((a, b) => a - b);
  const found = () => [...reader.store].map(({ fields }) => Number(fields["seq"])).sort((a, b) => a - b);
  await until("the last values", () => found().join() === last.join()).catch(() => {});
  assert.deepEqual(found(), last, JSON.stringify(await reader.states()));
  assert.ok([...reader.store].every(({ uncertain }) => !uncertain));
};

for (const transport of ["websocket", "sse"] as const) {
  const options: Options = { transports: [transport], interval: 300 };
  const open = (_network: unknown, more: Options) => intoStore(more);

  test(`Node, ${transport}: newest values stay the newest when an edge is killed`, () =>
    underFault(
      cluster,
      open,
      options,
      async ({ reader, edges, publisher }) => {
        await edges[0].kill();
        await publisher.goesOn(200);
        await until("it is open again", async () => (await openings(reader)) === 2);
      },
      {
        check: async (reader, count) => {
          await assertState(reader, count);
          const seqs = await reader.seqs();
          assert.ok(seqs.length < count, `${seqs.length} of ${count} came: nothing was conflated`);
          assert.equal(new Set(seqs).size, seqs.length, "a value came twice");
        },
      },
    ));
}

for (const transport of ["websocket", "sse"] as const) {
  const options: Options = { transports: [transport], snapshot: true };
  const open = (_network: unknown, more: Options) => intoStore(more);

  test(`Node, ${transport}: last values and what follows them add up, whenever one joins and whatever is killed`, async () => {
    // Joined under load, one by one: each at a place of its own.
    const late: Awaited<ReturnType<typeof intoStore>>[] = [];
    await underFault(
      cluster,
      open,
      options,
      async ({ edges, networks, publisher }) => {
        for (let joined = 0; joined < 20; joined++) {
          late.push(await intoStore({ ...options, filter: publisher.filter, urls: networks.map(({ url }) => url) }));
          await publisher.goesOn(1);
        }
        await edges[0].kill();
        await publisher.goesOn(50);
      },
      {
        check: async (reader, count) => {
          for (const one of [reader, ...late]) await assertState(one, count);
        },
      },
    );
    for (const one of late) await one.close();
  });
}

/** Reads with a loop that takes its time, and keeps no more than a few messages. */
const slowly = async (options: Parameters<typeof connect>[0]): Promise<Reader> => {
  const client = connect({ WebSocket, timing: TIMING, bufferMax: 8, ...options });
  const seqs: number[] = [];
  const states: unknown[] = [];
  client.on("state", (state) => states.push(state));
  const reading = (async () => {
    for await (const message of client) {
      assert.equal(message.type, "metrics");
      if (message.type === "metrics") seqs.push(...message.metrics.map(({ fields }) => fields["seq"] as number));
      await new Promise((done) => setTimeout(done, 40));
    }
  })();
  return {
    seqs: async () => seqs,
    states: async () => states as never,
    gaps: async () => [],
    close: async () => {
      client.close();
      await reading;
    },
  };
};

test("Node: a loop that is slower than what comes pauses the connection, and misses nothing", () =>
  underFault(
    cluster,
    (_network, options) => slowly(options),
    { transports: ["websocket"] },
    async ({ reader, publisher }) => {
      await publisher.goesOn(100);
      assert.ok((await reader.states()).some(({ state }) => state === "paused"));
    },
  ));

test("Node: where one client stopped reading another begins, without a loss or a repetition", async () => {
  const edge = await cluster.edge();
  const publisher = new Publisher(cluster.ingest, "relay");
  try {
    const seqs: number[] = [];
    let from = "earliest";
    for (let turn = 1; turn <= 5; turn++) {
      await publisher.goesOn(20);
      const client = connect({ url: edge.url, WebSocket, filter: publisher.filter, from });
      for await (const message of client) {
        if (message.type === "metrics") seqs.push(...message.metrics.map(({ fields }) => fields["seq"] as number));
        if (seqs.length >= 10 * turn) break;
      }
      from = client.offset as string;
      client.close();
    }
    assert.deepEqual(
      seqs,
      Array.from(seqs, (_, index) => index + 1),
    );
  } finally {
    await publisher.stop();
    await edge.kill();
  }
});

test("Node: another filter and another place are asked for and refusals change nothing", async () => {
  const edge = await cluster.edge();
  // On a stream of events it is another stream each time.
  for (const transport of ["websocket", "sse"] as const) {
    const client = connect({ url: edge.url, WebSocket, filter: "*.nothing", transports: [transport] });
    try {
      await assert.rejects(client.subscribe({ filter: "nonsense" }), { code: "bad_filter", fatal: false });
      await client.subscribe({ filter: "*.ledger", from: "earliest" });
      for await (const message of client) {
        assert.equal(message.type === "metrics" && message.metrics[0]?.name, "ledger");
        break;
      }
      await assert.rejects(client.replay("nonsense"), { code: "bad_from" });
      await client.replay("earliest");
    } finally {
      client.close();
    }
  }
  await edge.kill();
});

test("Node: what the server refuses ends it with the server's words", async () => {
  const edge = await cluster.edge();
  try {
    const client = connect({ url: edge.url, filter: "cpu", timing: TIMING, WebSocket });
    const read = async () => {
      for await (const _ of client) assert.fail("nothing comes");
    };
    // A WebSocket does not tell; the fall-back does.
    await assert.rejects(read(), {
      name: "TelecastError",
      code: "bad_filter",
      fatal: true,
      message: /write `\*\.cpu`/,
    });
    assert.equal(client.state.state, "closed");
  } finally {
    await edge.kill();
  }
});

test("Node: an outage sends no client to events whose WebSockets work", async () => {
  const first = await Telecast.start("standalone", undefined);
  const clients = Array.from({ length: 20 }, () =>
    connect({ url: first.url, WebSocket, timing: TIMING, filter: "*.it" }),
  );
  const transports = new Set<string>();
  for (const client of clients)
    client.on("state", (state) => state.state === "open" && transports.add(state.transport));
  const all = (state: string) => clients.every((client) => client.state.state === state);
  let second: Telecast | undefined;
  try {
    await until("all are open", () => all("open"));
    await first.kill();
    const failed = clients.map(
      (client) =>
        new Promise<void>((done) => {
          client.on("state", (state) => state.state === "waiting" && state.attempt >= 4 && done());
        }),
    );
    await Promise.all(failed);
    second = await Telecast.start("standalone", undefined, {}, [], first.port);
    await until("all are open again", () => all("open"));
    assert.deepEqual([...transports], ["websocket"]);
  } finally {
    clients.forEach((client) => client.close());
    await second?.kill();
  }
});

test("Node: a burst of changes, awaited or not, ends with the last of them", async () => {
  const edge = await cluster.edge();
  try {
    for (const transport of ["websocket", "sse"] as const) {
      const client = connect({ url: edge.url, WebSocket, filter: "*.nothing", transports: [transport] });
      await until("it is open", () => client.state.state === "open");
      for (let i = 0; i < 100; i++) void client.subscribe({ filter: `*.n${i}` });
      // More than the server takes in a second, each behind the answer to the one before.
      if (transport === "websocket") for (let i = 0; i < 70; i++) await client.subscribe({ filter: `*.m${i}` });
      await client.subscribe({ filter: "*.ledger", from: "earliest" });
      for await (const message of client) {
        assert.equal(message.type === "metrics" && message.metrics[0]?.name, "ledger");
        break;
      }
      client.close();
    }
  } finally {
    await edge.kill();
  }
});
