// In a real Chromium.

import assert from "node:assert/strict";
import { after, before, test } from "node:test";
import type { Options } from "@telecast/client";
import { Chromium } from "./chromium.js";
import { Cluster, fallsBack, faults, openings, underFault } from "./faults.js";
import { inPage } from "./readers.js";
import { until, type Network } from "./stage.js";

let chromium: Chromium;
let cluster: Cluster;
before(async () => {
  [chromium, cluster] = await Promise.all([Chromium.start(), Cluster.start()]);
});
after(() => Promise.all([chromium.close(), cluster.stop()]));

const open = (network: Network, options: Options) => inPage(chromium, network, options);

faults("Chromium, SSE", () => cluster, open, { transports: ["sse"] });

faults("Chromium, WebSocket", () => cluster, open, { transports: ["websocket"] });

test("Chromium: where WebSockets are refused it reads events, and returns when they are not", () =>
  fallsBack(cluster, open));

test("Chromium: a tab that was frozen catches up when it is looked at again", () =>
  underFault(cluster, open, {}, async ({ reader, publisher }) => {
    await reader.page.freeze();
    const before = await reader.seqs();
    await publisher.goesOn(50);
    assert.deepEqual(await reader.seqs(), before, "it really is frozen");
    // Chromium closes the WebSockets of frozen tabs, and tells the page when it goes on.
    await reader.page.thaw();
    await until("it is open again", async () => (await openings(reader)) === 2);
  }));

test("Chromium: a machine that slept, and whose connections died meanwhile, notices at once", () =>
  underFault(cluster, open, {}, async ({ reader, networks, publisher }) => {
    chromium.sleep();
    networks.forEach((network) => network.cut());
    await publisher.goesOn(50);
    networks.forEach((network) => network.mend());
    // Longer than a late timer can be explained by, shorter than the silence that is a dead connection.
    await new Promise((done) => setTimeout(done, 2_200));
    chromium.wake();
    await until("it is open again", async () => (await openings(reader)) === 2);
  }));

test("Chromium: a token goes by subprotocol, and the edge selects the protocol beside it", () =>
  underFault(cluster, open, { token: "secret ✓", transports: ["websocket"] }, async ({ networks }) => {
    assert.equal(networks[0].offers[0], "telecast.v1, telecast.token.c2VjcmV0IOKckw");
  }));
