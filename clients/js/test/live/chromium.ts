// A real Chromium, driven by its own protocol (CDP). Libraries that drive browsers tell every page that it is being looked at, and
// such a page never freezes.

import { execFileSync, spawn, type ChildProcess } from "node:child_process";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join, resolve } from "node:path";
import WebSocket from "ws";
import { endWithUs } from "./stage.js";

interface Answer {
  id?: number;
  result?: Record<string, unknown>;
  error?: { message: string };
}

/** A browser without a window. */
export class Chromium {
  #asked = 0;
  readonly #answers = new Map<number, (answer: Answer) => void>();

  private constructor(
    private readonly child: ChildProcess,
    private readonly ended: Promise<unknown>,
    private readonly socket: WebSocket,
    private readonly profile: string,
  ) {
    socket.on("message", (data) => {
      const answer = JSON.parse(String(data)) as Answer;
      if (answer.id !== undefined) this.#answers.get(answer.id)?.(answer);
    });
  }

  static async start(): Promise<Chromium> {
    // It says how to get one where there is none.
    const binary = execFileSync(resolve("../../scripts/setup-chromium.sh"), {
      encoding: "utf8",
      stdio: ["ignore", "pipe", "inherit"],
    }).trim();
    const profile = mkdtempSync(join(tmpdir(), "telecast-chromium-"));
    const args = [
      "--headless=new",
      "--no-sandbox",
      "--disable-gpu",
      "--disable-dev-shm-usage",
      "--no-first-run",
      "--remote-debugging-port=0",
      // A host of another name than the nodes': whose pages are foreign to them.
      "--host-resolver-rules=MAP foreign.test 127.0.0.1",
      `--user-data-dir=${profile}`,
      "about:blank",
    ];
    // A group of its own: a machine that sleeps stops all of its processes.
    const child = spawn(binary, args, { stdio: ["ignore", "ignore", "pipe"], detached: true });
    const ended = endWithUs(child, { group: true });
    const address = await new Promise<string>((found, fail) => {
      let log = "";
      child.stderr?.on("data", (text) => {
        log += text;
        const [, address] = /DevTools listening on (ws:\S+)/.exec(log) ?? [];
        if (address) found(address);
      });
      ended.then(() => fail(new Error(`${binary} does not start:\n${log}`)));
    });
    const socket = new WebSocket(address);
    await new Promise((done, fail) => socket.on("open", done).on("error", fail));
    return new Chromium(child, ended, socket, profile);
  }

  async send(method: string, params: object = {}, sessionId?: string): Promise<Record<string, unknown>> {
    const id = ++this.#asked;
    const { result, error } = await new Promise<Answer>((done) => {
      this.#answers.set(id, done);
      this.socket.send(JSON.stringify({ id, method, params, sessionId }));
    });
    this.#answers.delete(id);
    if (error) throw new Error(`${method}: ${error.message}`);
    return result ?? {};
  }

  async page(url: string): Promise<Page> {
    const { targetId } = await this.send("Target.createTarget", { url });
    const { sessionId } = await this.send("Target.attachToTarget", { targetId, flatten: true });
    return new Page(this, String(targetId), String(sessionId));
  }

  /** The machine falls asleep: nothing runs, and no clock of a timer does. */
  sleep(): void {
    this.#signal("SIGSTOP");
  }

  wake(): void {
    this.#signal("SIGCONT");
  }

  async close(): Promise<void> {
    this.#signal("SIGKILL");
    await this.ended;
    rmSync(this.profile, { recursive: true, force: true, maxRetries: 5 });
  }

  #signal(signal: NodeJS.Signals): void {
    if (this.child.pid) process.kill(-this.child.pid, signal);
  }
}

/** One tab. */
export class Page {
  constructor(
    private readonly chromium: Chromium,
    private readonly target: string,
    private readonly session: string,
  ) {}

  /** What an expression gives, waited for if it is a promise. */
  async evaluate<T>(expression: string): Promise<T> {
    const params = { expression, awaitPromise: true, returnByValue: true };
    const { result, exceptionDetails } = await this.chromium.send("Runtime.evaluate", params, this.session);
    if (exceptionDetails) throw new Error(JSON.stringify(exceptionDetails));
    return (result as { value: T }).value;
  }

  /** As browsers do with tabs in the background: no task and no timer of the page runs. */
  async freeze(): Promise<void> {
    await this.chromium.send("Page.setWebLifecycleState", { state: "frozen" }, this.session);
  }

  /** The tab is looked at again. */
  async thaw(): Promise<void> {
    await this.chromium.send("Page.setWebLifecycleState", { state: "active" }, this.session);
    await this.chromium.send("Emulation.setFocusEmulationEnabled", { enabled: true }, this.session);
  }

  async close(): Promise<void> {
    await this.chromium.send("Target.closeTarget", { targetId: this.target });
  }
}
