// What a store of last values costs: `npm run bench`, or `npm run bench -- OTHER/dist/index.js` beside another build, in turn and in one run.
// Processor time of a thread, since the machine may be busy; `--single-threaded-gc` has it hold the collector's share, too.

import { resolve } from "node:path";
import { pathToFileURL } from "node:url";

const HOSTS = 20;
const SERIES = 5_000;
const ROUNDS = 100;
const METRICS = SERIES * ROUNDS;
const METRICS_PER_S = 100_000;

/** Each host's flush, once a second: 250 series with four tags and four fields each. */
const texts = [];
for (let round = 0; round < ROUNDS; round++) {
  for (let host = 0; host < HOSTS; host++) {
    const metrics = Array.from({ length: SERIES / HOSTS }, (_, cpu) => ({
      name: "cpu",
      tags: { cpu: `cpu${cpu}`, dc: "eu-central-1", host: `web-${host}`, rack: `r${cpu % 40}` },
      fields: {
        usage_idle: Math.random() * 100,
        usage_user: Math.random() * 100,
        usage_system: Math.random() * 100,
        usage_iowait: Math.random(),
      },
      timestamp: 1_700_000_000_000 + round * 1_000,
    }));
    texts.push(JSON.stringify({ type: "metrics", offset: "x", collector: `web-${host}`, metrics }));
  }
}

const usedMs = () => {
  const { user, system } = process.cpuUsage();
  return (user + system) / 1_000;
};

const percent = (ms) => ((ms / METRICS) * (METRICS_PER_S / 1_000) * 100).toFixed(1);

for (let pass = 1; pass <= 3; pass++) {
  for (const build of [...process.argv.slice(2), "dist/index.js"]) {
    const { SeriesStore } = await import(pathToFileURL(resolve(build)).href);
    let began = usedMs();
    const messages = texts.map((text) => JSON.parse(text));
    const read = usedMs() - began;
    const store = new SeriesStore();
    let changed = 0;
    store.subscribe((series) => (changed += series.length));
    began = usedMs();
    for (const message of messages) store.apply(message);
    const kept = usedMs() - began;
    if (changed !== METRICS || store.size !== SERIES)
      throw new Error(`${build}: ${changed} changes, ${store.size} series`);
    console.log(
      `pass ${pass}, ${build}: ${METRICS_PER_S} metrics/s take ${percent(kept)} % of a thread, and ${percent(read)} % to read them from JSON`,
    );
  }
}
