// Peers: Node.js with `ws` (a frame made once and written to each socket, or its plain send), or with socket.io.
//
//     node node.mjs prepared|plain|socket.io HOST PORT MESSAGES_PER_SECOND BYTES AWAIT_CLIENTS
//
// Sends nothing until so many clients are there.
//
// Packages are looked up in bench/.peers/node, where setup.py puts them.

import { createServer } from 'node:http';
import { createRequire } from 'node:module';

const require = createRequire(new URL('../../.peers/node/package.json', import.meta.url));
const [, , kind, host, port, rate, bytes, awaited] = process.argv;
const firstNumber = 1_000_000_000;
const backlog = 4096;

/** A message with a stamp: the same JSON as the other peers' messages. */
function message(dueMs, count, size) {
  // Milliseconds with a fraction have more digits than a double holds: whole milliseconds and the rest apart.
  const wholeMs = Math.floor(dueMs);
  const restNs = Math.floor((dueMs - wholeMs) * 1e6);
  const head = `{"sent_ns":${wholeMs}${String(restNs).padStart(6, '0')},"seq":${firstNumber + count},"pad":"`;
  return `${head}${'x'.repeat(Math.max(0, size - head.length - 2))}"}`;
}

/** What gives one message to every client, and how many there are. */
const servers = {
  prepared(server) {
    const { WebSocketServer, Sender } = require('ws');
    const clients = new WebSocketServer({ server, perMessageDeflate: false }).clients;
    const options = { fin: true, opcode: 1, mask: false, readOnly: false, rsv1: false };
    const send = (text) => {
      const frame = Buffer.concat(Sender.frame(Buffer.from(text), options));
      for (const client of clients) client._socket.write(frame);
    };
    return { send, count: () => clients.size };
  },
  plain(server) {
    const { WebSocketServer } = require('ws');
    const clients = new WebSocketServer({ server, perMessageDeflate: false }).clients;
    const send = (text) => {
      for (const client of clients) client.send(text);
    };
    return { send, count: () => clients.size };
  },
  'socket.io'(server) {
    const { Server } = require('socket.io');
    const io = new Server(server, { transports: ['websocket'], perMessageDeflate: false, serveClient: false });
    return { send: (text) => io.emit('m', JSON.parse(text)), count: () => io.sockets.sockets.size };
  },
};

if (!servers[kind]) {
  console.error(`node.mjs: ${kind}: known are ${Object.keys(servers).join(', ')}`);
  process.exit(64);
}
const server = createServer();
const clients = servers[kind](server);
server.on('connection', (socket) => socket.setNoDelay(true));
server.listen({ host, port: Number(port), backlog });

const intervalMs = 1000 / Number(rate);
const nowMs = () => performance.timeOrigin + performance.now();
const lookMs = 10;
let startMs = 0;
let count = 0;

/** Sends what is due. Timers have whole milliseconds: what is due in between goes out up to one late, with its own time. */
function turn() {
  const now = nowMs();
  for (; startMs + count * intervalMs <= now; count++) {
    clients.send(message(startMs + count * intervalMs, count, Number(bytes)));
  }
  setTimeout(turn, Math.max(1, startMs + count * intervalMs - now));
}

function begin() {
  if (clients.count() < Number(awaited)) {
    setTimeout(begin, lookMs);
    return;
  }
  startMs = nowMs();
  turn();
}
if (Number(rate) > 0) begin();
