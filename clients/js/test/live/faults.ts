// What may happen to a client, and what must not: one scenario each, wherever the client runs.

import assert from "node:assert/strict";
import { test } from "node:test";
import { assertLedger, opened, type Reader } from "./readers.js";
import { Nats, Network, Publisher, Telecast, until } from "./stage.js";
import type { Options } from "@telecast/client";

/** Quick, so that silence is noticed within a test's patience. */
const EDGE = {
  "server.cors_origins": "*",
  "edge.heartbeat_ms": 1_000,
  "edge.drain_grace_ms": 0,
  "edge.drain_waves_ms": 100,
};
const FILTER = "*.ledger";

/** What is running. */
export class Cluster {
  private constructor(
    readonly nats: Nats,
    readonly ingest: Telecast,
  ) {}

  static async start(): Promise<Cluster> {
    const nats = await Nats.start();
    return new Cluster(nats, await Telecast.start("ingest", nats));
  }

  edge(): Promise<Telecast> {
    return Telecast.start("edge", this.nats, EDGE);
  }

  async stop(): Promise<void> {
    await this.ingest.kill();
    await this.nats.kill();
  }
}

/** Opens a reader, somewhere behind this network. */
type Open<R extends Reader> = (network: Network, options: Options) => Promise<R>;

/** Runs `act` while metrics are published to two edges behind networks of their own, then looks at the ledger. */
export const underFault = async <R extends Reader>(
  cluster: Cluster,
  open: Open<R>,
  options: Options,
  act: (scene: {
    reader: R;
    edges: [Telecast, Telecast];
    networks: [Network, Network];
    publisher: Publisher;
  }) => Promise<void>,
  {
    prepare = () => {},
    check = assertLedger,
  }: { prepare?: (networks: [Network, Network]) => void; check?: (reader: R, count: number) => Promise<void> } = {},
): Promise<void> => {
  const edges = (await Promise.all([cluster.edge(), cluster.edge()])) as [Telecast, Telecast];
  const networks = (await Promise.all(edges.map((edge) => Network.to(edge)))) as [Network, Network];
  prepare(networks);
  let reader: R | undefined;
  let publisher: Publisher | undefined;
  try {
    reader = await open(networks[0], { filter: FILTER, urls: networks.map(({ url }) => url), ...options });
    await opened(reader);
    publisher = new Publisher(cluster.ingest);
    await publisher.goesOn(20);
    await act({ reader, edges, networks, publisher });
    await publisher.goesOn(20);
    await publisher.stop();
    await check(reader, publisher.count);
  } finally {
    await publisher?.stop();
    await reader?.close();
    networks.forEach((network) => network.close());
    await Promise.all(edges.map((edge) => edge.kill()));
  }
};

/** How often it has been open. */
export const openings = async (reader: Reader): Promise<number> =>
  (await reader.states()).filter(({ state }) => state === "open").length;

/** A network without WebSockets: server-sent events come instead, until it has them. */
export const fallsBack = async <R extends Reader>(cluster: Cluster, open: Open<R>): Promise<void> => {
  const refuse = (networks: [Network, Network]) => networks.forEach((network) => (network.refusesUpgrades = true));
  await underFault(
    cluster,
    open,
    {},
    async ({ reader, networks, publisher }) => {
      const transport = async () => {
        const state = (await reader.states()).at(-1);
        return state?.state === "open" && state.transport;
      };
      assert.equal(await transport(), "sse");
      await publisher.goesOn(50);
      networks.forEach((network) => (network.refusesUpgrades = false));
      await until("it is back on a WebSocket", async () => (await transport()) === "websocket");
    },
    { prepare: refuse },
  );
};

/** The scenarios that are the same everywhere. */
export const faults = <R extends Reader>(
  where: string,
  cluster: () => Cluster,
  open: Open<R>,
  options: Options = {},
): void => {
  test(`${where}: an edge that is killed costs nothing`, () =>
    underFault(cluster(), open, options, async ({ reader, edges, publisher }) => {
      await edges[0].kill();
      await publisher.goesOn(20);
      await until("it is open again", async () => (await openings(reader)) === 2);
    }));

  test(`${where}: an edge that drains sends it elsewhere, when it says`, () =>
    underFault(cluster(), open, options, async ({ reader, edges }) => {
      assert.equal(await edges[0].drain(), 0);
      await until("it is open again", async () => (await openings(reader)) === 2);
      const waiting = (await reader.states()).find(({ state }) => state === "waiting");
      assert.ok(waiting?.state === "waiting" && waiting.attempt === 0, "a goodbye is no failure");
    }));

  test(`${where}: a network that is cut without a word is noticed, and nothing is lost`, () =>
    underFault(cluster(), open, options, async ({ reader, networks, publisher }) => {
      networks.forEach((network) => network.cut());
      await publisher.goesOn(20);
      await until("it is noticed", async () => (await reader.states()).at(-1)?.state !== "open");
      networks.forEach((network) => network.mend());
      await until("it is open again", async () => (await openings(reader)) === 2);
    }));
};
