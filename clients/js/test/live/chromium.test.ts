// In a real Chromium.

import assert from "node:assert/strict";
import { after, before, test } from "node:test";
import type { Options } from "@telecast/client";
import { Chromium } from "./chromium.js";
import { Cluster, fallsBack, faults, openings, underFault } from "./faults.js";
import { inPage } from "./readers.js";
import { Network, Telecast, until } from "./stage.js";

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

/** A page of an origin of its own, with what a node serves at `/telecast.js`, and that node. */
const inForeignPage = async (
  header: (edge: Telecast) => string,
  script: (edge: Telecast) => string,
  check: (ask: <T>(expression: string) => Promise<T>, edge: Telecast) => Promise<void>,
): Promise<void> => {
  const edge = await cluster.edge();
  const network = await Network.to(edge);
  const map = `<script type="importmap">{"imports":{"@telecast/client":"${edge.url}/telecast.js"}}</script>`;
  const body = `<!doctype html><title>test</title><link rel="icon" href="data:,">${map}<script type="module" src="app.js"></script>`;
  network.files.set("/test/", { type: "text/html", body, header: header(edge) });
  const app = `import { connect } from "@telecast/client"; window.states = []; window.errors = [];
    const open = (options) => { const client = connect({ url: "${edge.url}", filter: "*.ledger", ...options });
      client.on("state", (state) => states.push(state)); client.on("error", ({ code, fatal, message }) => errors.push({ code, fatal, message }));
      return client; };
    ${script(edge)}`;
  network.files.set("/test/app.js", { type: "text/javascript", body: app });
  const page = await chromium.page(`${network.url}/test/`);
  try {
    await check((expression) => page.evaluate(expression), edge);
  } finally {
    await page.close();
    network.close();
    await edge.kill();
  }
};

test("Chromium: a page needs nothing but a node, whose library an import map names", () =>
  inForeignPage(
    () => "",
    () => "open({});",
    async (ask) => {
      await until("it is open", () => ask('window.states?.at(-1)?.state === "open"'));
      assert.equal(await ask("states.at(-1).transport"), "websocket");
    },
  ));

test("Chromium: a policy that forgets `ws:` is told, and costs no time", () =>
  inForeignPage(
    // Scripts of the page are inline: the import map is one.
    (edge) =>
      `Content-Security-Policy: script-src 'self' 'unsafe-inline' ${edge.url}; connect-src 'self' ${edge.url}\r\n`,
    () =>
      "window.began = performance.now(); open({}).on('state', ({ state }) => state === 'open' && (window.took = performance.now() - began));",
    async (ask) => {
      await until("it is open", () => ask('window.states?.at(-1)?.state === "open"'));
      assert.equal(await ask("states.at(-1).transport"), "sse");
      const errors = await ask<{ code: string; fatal: boolean; message: string }[]>("errors");
      assert.deepEqual(
        errors.map(({ code, fatal }) => [code, fatal]),
        [["policy", false]],
      );
      assert.match(errors[0]?.message ?? "", /Content-Security-Policy forbids ws:/);
      assert.ok((await ask<number>("took")) < 8_000, "less than an attempt may take");
    },
  ));

test("Chromium: a policy that forbids the node is told, and ends it", () =>
  inForeignPage(
    (edge) => `Content-Security-Policy: script-src 'self' 'unsafe-inline' ${edge.url}; connect-src 'self'\r\n`,
    () => "open({});",
    async (ask) => {
      await until("it has ended", () => ask('window.states?.at(-1)?.state === "closed"'));
      assert.deepEqual(await ask("errors.map(({ code, fatal }) => [code, fatal])"), [
        ["policy", false],
        ["policy", true],
      ]);
    },
  ));

test("Chromium: what the server refuses is told with its words, and ends it", () =>
  inForeignPage(
    () => "",
    () => 'open({ filter: "cpu" });',
    async (ask) => {
      await until("it has ended", () => ask('window.states?.at(-1)?.state === "closed"'));
      const [error] = await ask<{ code: string; message: string }[]>("errors");
      assert.equal(error?.code, "bad_filter");
      assert.match(error?.message ?? "", /write `\*\.cpu`/);
    },
  ));

test("Chromium: eight clients on events of one host are all open, and leave the host to others", () =>
  inForeignPage(
    () => "",
    () => 'window.clients = Array.from({ length: 8 }, () => open({ transports: ["sse"] }));',
    async (ask, edge) => {
      await until("all are open", () => ask('window.clients?.every(({ state }) => state.state === "open")'));
      assert.equal(await ask(`fetch("${edge.url}/api/health").then(({ status }) => status)`), 200);
    },
  ));

test("Chromium: a page whose origin a node refuses is told which key of the node it is about", async () => {
  const edge = await Telecast.start("edge", cluster.nats);
  const network = await Network.to(edge);
  network.files.set("/test/", { type: "text/html", body: "<!doctype html><title>test</title>" });
  const page = await chromium.page(`${network.url.replace("127.0.0.1", "foreign.test")}/test/`);
  try {
    await until("the page is there", () => page.evaluate('document.title === "test"'));
    await page.evaluate(`import("${edge.url}/telecast.js").then(({ connect }) => {
      window.errors = [];
      const client = connect({ url: "${edge.url}", timing: { backoffBaseMs: 100, backoffMaxMs: 200 } });
      client.on("error", ({ code, message }) => errors.push({ code, message }));
    })`);
    await until("it is told", () => page.evaluate("window.errors?.length > 0"));
    const [error] = await page.evaluate<{ code: string; message: string }[]>("errors");
    assert.equal(error?.code, "refused_page");
    assert.match(error?.message ?? "", /http:\/\/foreign\.test:\d+ .*`server\.allowed_origins`/);
  } finally {
    await page.close();
    network.close();
    await edge.kill();
  }
});
