// Builds the package and its tests, and runs them. `npm test`: everything; `npm test -- unit`: one folder of test/.

import { spawnSync } from "node:child_process";
import { readdirSync, rmSync } from "node:fs";
import { dirname, join } from "node:path";
import { build } from "esbuild";
import "./build.js";

const root = dirname(import.meta.dirname);
const folders = process.argv.length > 2 ? process.argv.slice(2) : ["unit", "package", "live"];
const out = join(root, ".build");
rmSync(out, { recursive: true, force: true });
const sources = folders.flatMap((folder) =>
  readdirSync(join(root, "test", folder))
    .filter((name) => name.endsWith(".test.ts"))
    .map((name) => join(root, "test", folder, name)),
);
await build({
  entryPoints: sources,
  outdir: out,
  outbase: join(root, "test"),
  bundle: true,
  platform: "node",
  format: "esm",
  target: "node20",
  sourcemap: "inline",
  packages: "external",
});
const files = sources.map((source) => source.replace(join(root, "test"), out).replace(/\.ts$/, ".js"));
// The machine has few cores, and every live test starts processes of its own.
const { status } = spawnSync(
  process.execPath,
  ["--enable-source-maps", "--test", "--test-reporter=spec", "--test-concurrency=2", "--test-timeout=240000", ...files],
  { stdio: "inherit", cwd: root },
);
process.exitCode = status ?? 1;
