// Real processes on free loopback ports: nats-server, ingest, edges; a publisher that counts; a network that can be cut.

import { spawn, type ChildProcess } from "node:child_process";
import { existsSync, mkdtempSync, rmSync, statSync } from "node:fs";
import { createServer, connect as dial, type AddressInfo, type Server, type Socket } from "node:net";
import { tmpdir } from "node:os";
import { join, resolve } from "node:path";
import { createInterface } from "node:readline";

const REPOSITORY = resolve("../..");
/** Whatever a test waits for has happened by then: debug binaries on two busy cores need seconds. */
const PATIENCE_MS = 40_000;

/** Looks until it is so. */
export const until = async (what: string, look: () => unknown): Promise<void> => {
  const end = Date.now() + PATIENCE_MS;
  while (!(await look())) {
    if (Date.now() > end) throw new Error(`${what}: not within ${PATIENCE_MS} ms`);
    await new Promise((done) => setTimeout(done, 20));
  }
};

/** The newest build; TELECAST_BIN is another. */
const telecastBinary = (): string => {
  const target = process.env["CARGO_TARGET_DIR"] ?? join(REPOSITORY, "target");
  const built = ["debug", "release"]
    .map((profile) => join(target, profile, "telecast"))
    .filter((path) => existsSync(path));
  const newest = built.sort((a, b) => statSync(b).mtimeMs - statSync(a).mtimeMs)[0];
  const binary = process.env["TELECAST_BIN"] ?? newest;
  if (!binary)
    throw new Error(
      "there is no telecast to test against: `cargo build` in the repository makes one, TELECAST_BIN names another",
    );
  return binary;
};

const freePort = (): Promise<number> =>
  new Promise((found) => {
    const server = createServer();
    const port = 12_000 + Math.floor(Math.random() * 20_000);
    server.on("error", () => freePort().then(found)).listen(port, "127.0.0.1", () => server.close(() => found(port)));
  });

/** What is to be done when this process ends, however that comes about: nothing may outlive its test. */
const atEnd = new Set<() => void>();
process.on("exit", () => atEnd.forEach((end) => end()));
for (const signal of ["SIGINT", "SIGTERM"] as const) process.once(signal, () => process.exit(1));

/** Has a child killed with this process; with its whole group, if it leads one. Returns when it has ended. */
export const endWithUs = (child: ChildProcess, { group = false } = {}): Promise<number | null> => {
  const end = () => {
    if (child.pid !== undefined) process.kill(group ? -child.pid : child.pid, "SIGKILL");
  };
  atEnd.add(end);
  return new Promise((done) =>
    child.on("exit", (code) => {
      atEnd.delete(end);
      done(code);
    }),
  );
};

class Process {
  protected constructor(
    readonly child: ChildProcess,
    readonly ended: Promise<number | null>,
  ) {}

  /** Ends it as a crash does. */
  async kill(): Promise<void> {
    this.child.kill("SIGKILL");
    await this.ended;
  }
}

/** Starts a process and reads its log until `ready` finds what it looks for. */
const launch = async <T>(
  command: string,
  args: string[],
  env: Record<string, string>,
  ready: (line: string) => T | undefined,
): Promise<{ child: ChildProcess; ended: Promise<number | null>; found: T }> => {
  const child = spawn(command, args, { env, stdio: ["ignore", "ignore", "pipe"] });
  const ended = endWithUs(child);
  const log: string[] = [];
  const found = await new Promise<T>((done, fail) => {
    child.on("error", fail);
    createInterface({ input: child.stderr as NodeJS.ReadableStream }).on("line", (line) => {
      log.push(line);
      const result = ready(line);
      if (result !== undefined) done(result);
    });
    ended.then((code) =>
      fail(new Error(`${command} ${args.join(" ")} ended with ${code}:\n${log.slice(-20).join("\n")}`)),
    );
  });
  return { child, ended, found };
};

export class Nats extends Process {
  private constructor(
    child: ChildProcess,
    ended: Promise<number | null>,
    readonly url: string,
    private readonly folder: string,
  ) {
    super(child, ended);
  }

  static async start(): Promise<Nats> {
    const binary = process.env["NATS_SERVER"] ?? join(REPOSITORY, ".tools/bin/nats-server");
    if (!existsSync(binary))
      throw new Error("there is no nats-server: `make tools` gets one, NATS_SERVER names another");
    const [folder, port] = [mkdtempSync(join(tmpdir(), "telecast-js-")), await freePort()];
    const args = ["-a", "127.0.0.1", "-p", String(port), "-js", "-sd", folder];
    const { child, ended } = await launch(binary, args, {}, (line) =>
      line.includes("Server is ready") ? true : undefined,
    );
    return new Nats(child, ended, `nats://127.0.0.1:${port}`, folder);
  }

  override async kill(): Promise<void> {
    await super.kill();
    rmSync(this.folder, { recursive: true, force: true });
  }
}

/** One node of a cluster, or a process that is all of it. */
export class Telecast extends Process {
  private constructor(
    child: ChildProcess,
    ended: Promise<number | null>,
    readonly port: number,
  ) {
    super(child, ended);
  }

  /** `keys`: of the configuration. */
  static async start(
    role: string,
    nats: Nats | undefined,
    keys: Record<string, string | number> = {},
    more: string[] = [],
    port = 0,
  ): Promise<Telecast> {
    const node = `js-${role}-${Math.random().toString(36).slice(2, 8)}`;
    const args = [
      role,
      "--listen",
      `127.0.0.1:${port}`,
      "--node",
      node,
      ...(nats ? ["--nats", nats.url] : []),
      ...more,
    ];
    const named = Object.entries(keys).map(([key, value]) => [
      `TELECAST__${key.toUpperCase().replaceAll(".", "__")}`,
      String(value),
    ]);
    const env = {
      LOG_FORMAT: "json",
      LOG_LEVEL: "info",
      TELECAST_CONFIG_DIR: import.meta.dirname,
      ...Object.fromEntries(named),
    };
    const listening = (line: string): number | undefined => {
      if (!line.includes('"listening"')) return undefined;
      const { event, context } = JSON.parse(line);
      return event === "listening" ? Number(context.address.split(":").pop()) : undefined;
    };
    const { child, ended, found } = await launch(telecastBinary(), args, env, listening);
    const telecast = new Telecast(child, ended, found);
    await until(`${node} is ready`, async () => (await fetch(`${telecast.url}/readyz`)).ok);
    return telecast;
  }

  get url(): string {
    return `http://127.0.0.1:${this.port}`;
  }

  /** Asks it to stop, as an orchestrator does. */
  drain(): Promise<number | null> {
    this.child.kill("SIGTERM");
    return this.ended;
  }
}

/** Series that a publisher has. */
export const KEYS = 20;

/** Publishes `ledger seq=1i`, `seq=2i`, … of one collector, in turn for each of {@link KEYS} series. */
export class Publisher {
  /** What the log has acknowledged. */
  count = 0;
  #running = true;
  readonly #done: Promise<void>;

  constructor(
    private readonly ingest: Telecast,
    private readonly collector = "publisher",
  ) {
    this.#done = this.#run();
  }

  async #run(): Promise<void> {
    const start = BigInt(Date.now()) * 1_000_000n;
    while (this.#running) {
      const lines = Array.from({ length: 1 + Math.floor(Math.random() * 3) }, (_, i) => {
        const seq = this.count + 1 + i;
        return `ledger,host=${this.collector},key=${seq % KEYS} seq=${seq}i ${start + BigInt(seq)}`;
      });
      const response = await fetch(`${this.ingest.url}/api/v1/write`, { method: "POST", body: lines.join("\n") });
      if (response.status !== 204)
        throw new Error(`the write was refused: ${response.status} ${await response.text()}`);
      this.count += lines.length;
      await new Promise((done) => setTimeout(done, 10));
    }
  }

  /** The filter that gets it all, and nothing else. */
  get filter(): string {
    return `${this.collector}.ledger`;
  }

  /** Until so many more are in the log. */
  async goesOn(metrics: number): Promise<void> {
    const goal = this.count + metrics;
    await until(`${metrics} more metrics`, () => this.count >= goal);
  }

  async stop(): Promise<void> {
    this.#running = false;
    await this.#done;
  }
}

/** A network between clients and one server. It can serve files as well, so that a page and the server are of one origin. */
export class Network {
  /** Connections that ask for an upgrade are refused, as proxies do that know no WebSockets. */
  refusesUpgrades = false;
  /** The subprotocols that each WebSocket offered which got through. */
  readonly offers: string[] = [];
  readonly files = new Map<string, { type: string; body: string; header?: string }>();
  #cut = false;
  readonly #sockets = new Set<Socket>();
  readonly #server: Server;

  private constructor(private readonly server: Telecast) {
    this.#server = createServer({ pauseOnConnect: false }, (client) => this.#accept(client));
  }

  static async to(server: Telecast): Promise<Network> {
    const network = new Network(server);
    await new Promise<void>((done) => network.#server.listen(0, "127.0.0.1", done));
    return network;
  }

  get url(): string {
    return `http://127.0.0.1:${(this.#server.address() as AddressInfo).port}`;
  }

  /** From now on nothing gets through, and nobody is told: neither on connections there are, nor on new ones. */
  cut(): void {
    this.#cut = true;
    for (const socket of this.#sockets) socket.pause().unpipe();
  }

  /** New connections get through again; the old ones stay dead, and silent. */
  mend(): void {
    this.#cut = false;
  }

  close(): void {
    this.#server.close();
    for (const socket of this.#sockets) socket.destroy();
  }

  #keep(socket: Socket): Socket {
    this.#sockets.add(socket);
    return socket.on("close", () => this.#sockets.delete(socket)).on("error", () => {});
  }

  #accept(client: Socket): void {
    this.#keep(client);
    if (this.#cut) return void client.pause();
    client.once("data", (head) => {
      const text = head.toString("latin1");
      const file = this.files.get(text.split(" ")[1]?.split("?")[0] ?? "");
      const isUpgrade = /^upgrade: *websocket/im.test(text);
      if (file) {
        const bytes = Buffer.from(file.body);
        client.end(
          Buffer.concat([
            Buffer.from(
              `HTTP/1.1 200 OK\r\nContent-Type: ${file.type}\r\nContent-Length: ${bytes.length}\r\n${file.header ?? ""}Connection: close\r\n\r\n`,
            ),
            bytes,
          ]),
        );
      } else if (isUpgrade && this.refusesUpgrades) {
        client.end("HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
      } else {
        if (isUpgrade) this.offers.push(/^sec-websocket-protocol: *(.*)$/im.exec(text)?.[1]?.trim() ?? "");
        const server = this.#keep(dial(this.server.port, "127.0.0.1"));
        server.write(head);
        client.pipe(server).pipe(client);
        client.on("close", () => this.#cut || server.destroy());
        server.on("close", () => this.#cut || client.destroy());
      }
    });
  }
}
