// Not run, only compiled: what the types allow, and what they do not.

import { connect, SeriesStore, type Client, type MetricsMessage, type TelecastError } from "@telecast/client";
import WebSocket from "ws";

export const use = async (): Promise<void> => {
  const client: Client = connect({
    urls: ["https://a", new URL("https://b")],
    filter: ["*.cpu", "*.mem"],
    token: async () => "secret",
    WebSocket,
  });
  const off: () => void = client.on("metrics", (message: MetricsMessage) => message.metrics[0]?.fields["x"]);
  client.on("error", (error: TelecastError) => error.fatal);
  client.on("state", (state) => {
    if (state.state === "waiting") state.delayMs.toFixed();
    // @ts-expect-error Only who waits has a delay.
    state.delayMs;
  });
  // @ts-expect-error There is no such event.
  client.on("metric", () => {});
  // @ts-expect-error A number of milliseconds.
  connect({ url: "https://a", interval: "1s" });
  // @ts-expect-error Offsets are made by servers.
  client.offset = "x";
  await client.subscribe({ interval: 1000 });
  for await (const message of client) {
    if (message.type === "gap") message.reason satisfies "retention" | "slow" | "reset" | "source";
    if (message.type === "snapshot") message.part.toFixed();
    // @ts-expect-error Not every message has metrics.
    message.metrics;
  }
  for (const { fields, uncertain } of new SeriesStore(client, { max: 10 }))
    (fields["x"] satisfies string | number | boolean | undefined, uncertain);
  off();
};
