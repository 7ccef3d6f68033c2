// What others get: how big it is, how it is packed, its types, and the examples of its README.

import assert from "node:assert/strict";
import { execFileSync, spawn } from "node:child_process";
import { mkdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { createRequire } from "node:module";
import { dirname, join } from "node:path";
import { after, before, test } from "node:test";
import { runInNewContext } from "node:vm";
import { gzipSync } from "node:zlib";
import { build } from "esbuild";
import { publint } from "publint";
import { formatMessage } from "publint/utils";
import { Telecast } from "../live/stage.js";

/** What a page gets that shows what comes, as its bundler makes it; and with all its parts, as a node serves it. */
const CONNECT_GZIPPED_BYTES_MAX = 9_000;
const GZIPPED_BYTES_MAX = 10_500;

const TSC = join(dirname(createRequire(import.meta.url).resolve("typescript/package.json")), "bin/tsc");

/** The README's examples, in order. */
const EXAMPLES = [...readFileSync("README.md", "utf8").matchAll(/```js\n(.*?)```/gs)].map(([, code]) => code as string);

test("it is smaller than 9 kB, or 10 with the store", async () => {
  const stdin = { contents: 'export { connect } from "./dist/index.js";', resolveDir: "." };
  const bundle = { stdin, bundle: true, minify: true, write: false, format: "esm", target: "es2022" } as const;
  const [file] = (await build(bundle)).outputFiles;
  const bytes = gzipSync(file?.contents ?? "", { level: 9 }).length;
  assert.ok(bytes > 1_000 && bytes < CONNECT_GZIPPED_BYTES_MAX, `${bytes} bytes`);
  const whole = gzipSync(readFileSync("dist/telecast.js"), { level: 9 }).length;
  assert.ok(whole < GZIPPED_BYTES_MAX, `${whole} bytes`);
});

test("the file that nodes serve is what this source makes", () => {
  const fresh = readFileSync("dist/telecast.js", "utf8");
  assert.ok(fresh === readFileSync("../../src/edge/door/telecast.js", "utf8"), "`npm run browser` makes it anew");
});

test("it is for CommonJS, too, with readable names and source maps", () => {
  const script =
    'const { connect, SeriesStore } = require("@telecast/client"); console.log(typeof connect, SeriesStore.name)';
  const output = execFileSync(process.execPath, ["--input-type=commonjs", "-e", script], { encoding: "utf8" });
  assert.equal(output, "function SeriesStore\n");
  for (const file of ["dist/index.js", "dist/cjs/index.js"]) {
    const text = readFileSync(file, "utf8");
    for (const name of ["Client", "SeriesStore", "TelecastError"])
      assert.match(text, new RegExp(`\\b(class ${name}|${name} = class)\\b`));
    const { sources, sourcesContent } = JSON.parse(readFileSync(`${file}.map`, "utf8"));
    assert.ok(sources.length > 10 && sourcesContent.length === sources.length);
    assert.match(text, /\n\/\/# sourceMappingURL=index\.js\.map\n$/);
  }
});

test("importing it needs nothing of a browser, nor of Node, so that pages that use it can be rendered on a server", () => {
  const names = (contextified: object) =>
    runInNewContext(readFileSync("dist/cjs/index.js", "utf8") + "; Object.keys(module.exports)", contextified);
  const context = { module: { exports: {} as typeof import("../../src/index.js") }, AbortController };
  assert.deepEqual([...names(context)].sort(), ["SeriesStore", "TelecastError", "connect"]);
  assert.equal(new context.module.exports.SeriesStore().size, 0);
  assert.throws(() => context.module.exports.connect({ url: "/" }), /there is no WebSocket and no fetch here/);
});

test("it is packed as it should be, and depends on nothing", async () => {
  const manifest = JSON.parse(readFileSync("package.json", "utf8"));
  // Without packing: that would build anew, under the feet of other tests.
  const { messages } = await publint({ pkgDir: ".", strict: true, pack: false });
  assert.deepEqual(
    messages.map((message) => formatMessage(message, manifest)),
    [],
  );
  assert.equal(manifest.dependencies, undefined);
  const listed = execFileSync("npm", ["pack", "--dry-run", "--json", "--ignore-scripts"], { encoding: "utf8" });
  const files: string[] = JSON.parse(listed)[0].files.map(({ path }: { path: string }) => path);
  const unexpected = files.filter(
    (path) =>
      !/^(dist\/(cjs\/)?\w+\.(js|js\.map|d\.ts)|dist\/cjs\/package\.json|package\.json|README\.md|LICENSE)$/.test(path),
  );
  assert.deepEqual(unexpected, []);
  assert.ok(files.includes("dist/index.js") && files.includes("dist/index.d.ts"));
  assert.equal(manifest.license, /^license = "(.*)"$/m.exec(readFileSync("../../Cargo.toml", "utf8"))?.[1]);
});

test("its types are right: those that the tests use, and those of the README's examples", () => {
  // Examples are modules of a page: no types of Node, but those of its packages.
  const folder = ".build/examples";
  rmSync(folder, { recursive: true, force: true });
  mkdirSync(folder, { recursive: true });
  EXAMPLES.forEach((code, index) => writeFileSync(join(folder, `${index}.ts`), code));
  const options = {
    noEmit: true,
    strict: true,
    target: "es2022",
    module: "nodenext",
    lib: ["es2022", "dom"],
    types: [],
    skipLibCheck: true,
    rootDir: "../..",
  };
  writeFileSync(join(folder, "tsconfig.json"), JSON.stringify({ compilerOptions: options, include: ["."] }));
  for (const project of ["test", "test/commonjs", folder])
    execFileSync(process.execPath, [TSC, "-p", project], { stdio: "inherit" });
  assert.ok(EXAMPLES.length >= 4);
});

test("its README has no links into the repository, which a package's page has not", () => {
  const links = [...readFileSync("README.md", "utf8").matchAll(/\]\((?!https?:|#)[^)]+/g)].map(([link]) => link);
  assert.deepEqual(links, []);
});

let telecast: Telecast;
before(async () => {
  telecast = await Telecast.start("standalone", undefined, {}, ["--demo"]);
});
after(() => telecast.kill());

/** Runs an example as it is pasted, but for the port, until its output is as wanted. */
const prints = async (code: string, wanted: RegExp): Promise<void> => {
  // Inside the package its own name leads to what was built.
  const file = `.build/readme-${EXAMPLES.indexOf(code)}.js`;
  writeFileSync(file, code.replace("http://localhost:9090", telecast.url));
  const child = spawn(process.execPath, [file], { stdio: ["ignore", "pipe", "inherit"] });
  let output = "";
  for await (const text of child.stdout) {
    output += text;
    if (wanted.test(output)) break;
  }
  child.kill();
  assert.match(output, wanted);
};

test("the README's first example has ten lines and works as pasted", async () => {
  const [example = ""] = EXAMPLES;
  assert.ok(example.split("\n").filter((line) => line !== "").length <= 10);
  await prints(example, /^connecting\nopen\n(\S+ \d{4}-\d\d-\d\dT\S+Z \d+(\.\d+)?\n)+/);
});

test("so does the one that keeps last values", () =>
  prints(EXAMPLES.find((code) => code.includes("SeriesStore")) as string, /^cpu \{[^]*usage_idle/));
