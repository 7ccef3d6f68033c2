// In Node.

import assert from "node:assert/strict";
import { after, before, test } from "node:test";
import { connect } from "@telecast/client";
import WebSocket from "ws";
import { Cluster, fallsBack, faults, openings, underFault } from "./faults.js";
import { inNode, TIMING, type Reader } from "./readers.js";
import { Publisher, until } from "./stage.js";

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
