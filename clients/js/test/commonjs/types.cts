// Not run, only compiled: a CommonJS program that is strict about options that may be undefined.

import telecast = require("@telecast/client");

export const open = (
  filter: string | undefined,
  token: string | undefined,
  max: number | undefined,
): telecast.Client => {
  const client = telecast.connect({
    url: "https://edge",
    filter,
    token,
    interval: undefined,
    bufferMax: max,
    timing: { backoffBaseMs: max },
  });
  new telecast.SeriesStore(client, { max }).subscribe((changed, removed) => changed.length + removed.length);
  return client;
};
