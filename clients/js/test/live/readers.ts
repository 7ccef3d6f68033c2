// Clients with a ledger each: in this process, and in a page of a real Chromium.

import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { connect, type Client, type GapMessage, type Options, type State } from "@telecast/client";
import WebSocket from "ws";
import type { Chromium, Page } from "./chromium.js";
import { until, type Network } from "./stage.js";

/** What a reader can be asked, wherever it runs. */
export interface Reader {
  seqs(): Promise<number[]>;
  states(): Promise<State[]>;
  gaps(): Promise<GapMessage[]>;
  close(): Promise<void>;
}

/** Times that fit the heartbeats of these tests' edges. */
export const TIMING = {
  backoffBaseMs: 200,
  backoffMaxMs: 1_000,
  livenessMarginMs: 500,
  connectTimeoutMs: 2_000,
  pongTimeoutMs: 1_000,
  websocketRetryMs: 2_000,
};

const last = async (reader: Reader): Promise<State | undefined> => (await reader.states()).at(-1);

export const opened = (reader: Reader): Promise<void> =>
  until("the client is open", async () => (await last(reader))?.state === "open");

/** Every metric came exactly once, in order. */
export const assertLedger = async (reader: Reader, count: number): Promise<void> => {
  await until(`all ${count} metrics`, async () => (await reader.seqs()).length >= count).catch(() => {});
  const seqs = await reader.seqs();
  const states = JSON.stringify(await reader.states());
  const wrong = seqs.findIndex((seq, index) => seq !== index + 1);
  assert.equal(wrong, -1, `behind ${seqs[wrong - 1]} came ${seqs[wrong]}; ${states}`);
  assert.equal(seqs.length, count, states);
  assert.deepEqual(await reader.gaps(), []);
};

/** A client's record. Kept as source too: the page runs the same. */
const record = (client: Client) => {
  const book = { seqs: [] as number[], states: [] as State[], gaps: [] as GapMessage[], client };
  client.on("metrics", ({ metrics }) => metrics.forEach(({ fields }) => book.seqs.push(fields["seq"] as number)));
  client.on("lines", ({ lines }) =>
    [...lines.matchAll(/seq=(\d+)i/g)].forEach(([, seq]) => book.seqs.push(Number(seq))),
  );
  client.on("state", (state) => book.states.push(state));
  client.on("gap", (gap) => book.gaps.push(gap));
  return book;
};

/** In this process. `also` listens, too, and misses nothing. */
export const inNode = async (options: Options, also: (client: Client) => void = () => {}): Promise<Reader> => {
  const client = connect({ WebSocket, timing: TIMING, ...options });
  also(client);
  const book = record(client);
  return {
    seqs: async () => book.seqs,
    states: async () => book.states,
    gaps: async () => book.gaps,
    close: async () => book.client.close(),
  };
};

/** A reader in a page. */
export interface PageReader extends Reader {
  page: Page;
}

/** Opens a reader in a page that `network` serves. */
export const inPage = async (chromium: Chromium, network: Network, options: Options): Promise<PageReader> => {
  // Without an icon of its own, the browser would ask the edge for one, and then for the script on that same connection.
  network.files.set("/test/", {
    type: "text/html",
    body: '<!doctype html><title>test</title><link rel="icon" href="data:,">',
  });
  network.files.set("/test/client.js", { type: "text/javascript", body: readFileSync("dist/index.js", "utf8") });
  const page = await chromium.page(`${network.url}/test/`);
  await until("the page is there", () => page.evaluate('document.title === "test"'));
  const started = `(${record})(connect(${JSON.stringify({ timing: TIMING, ...options })}))`;
  await page.evaluate(`import("/test/client.js").then(({ connect }) => { window.book = ${started}; })`);
  const ask = <T>(what: string): Promise<T> => page.evaluate<T>(`book.${what}`);
  return {
    page,
    seqs: () => ask("seqs"),
    states: () => ask("states"),
    gaps: () => ask("gaps"),
    close: () => page.close(),
  };
};
