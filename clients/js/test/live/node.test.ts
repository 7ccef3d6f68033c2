// In Node, over WebSockets.

import assert from "node:assert/strict";
import { after, before, test } from "node:test";
import { connect } from "@telecast/client";
import WebSocket from "ws";
import { Cluster, faults, underFault } from "./faults.js";
import { inNode, TIMING, type Reader } from "./readers.js";
import { Publisher } from "./stage.js";

let cluster: Cluster;
before(async () => {
  cluster = await Cluster.start();
});
after(() => cluster.stop());

faults("Node, WebSocket", () => cluster, (_network, options) => inNode({ ...options, transports: ["websocket"] }));

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
  underFault(cluster, (_network, options) => slowly(options), { transports: ["websocket"] }, async ({ reader, publisher }) => {
    await publisher.goesOn(100);
    assert.ok((await reader.states()).some(({ state }) => state === "paused"));
  }));

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
    assert.deepEqual(seqs, Array.from(seqs, (_, index) => index + 1));
  } finally {
    await publisher.stop();
    await edge.kill();
  }
});

test("Node: another filter and another place are asked for on the connection there is, and refusals change nothing", async () => {
  const edge = await cluster.edge();
  const client = connect({ url: edge.url, WebSocket, filter: "*.nothing" });
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
    await edge.kill();
  }
});
