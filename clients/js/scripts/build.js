// Builds the package into dist/: one module for ES modules, one for CommonJS, their types, and the file for pages. `--browser` copies
// the last to the nodes' source, where it is kept: they serve it, and are built without Node.

import { execFileSync } from "node:child_process";
import { cpSync, readdirSync, rmSync, writeFileSync } from "node:fs";
import { createRequire } from "node:module";
import { dirname, join } from "node:path";
import { build } from "esbuild";

const root = dirname(import.meta.dirname);
rmSync(join(root, "dist"), { recursive: true, force: true });
const common = {
  absWorkingDir: root,
  entryPoints: ["src/index.ts"],
  bundle: true,
  target: "es2022",
  legalComments: "none",
};
// Names are kept: bundlers make them short, and until then a stack trace can be read.
const packaged = { ...common, sourcemap: true, sourcesContent: true };
await build({ ...packaged, format: "esm", outfile: "dist/index.js" });
await build({ ...packaged, format: "cjs", outfile: "dist/cjs/index.js" });
await build({
  ...common,
  format: "esm",
  outfile: "dist/telecast.js",
  minify: true,
  charset: "ascii",
  banner: { js: "// @telecast/client, Apache-2.0. Made from clients/js by `npm run build`." },
});
const tsc = join(dirname(createRequire(import.meta.url).resolve("typescript/package.json")), "bin/tsc");
execFileSync(process.execPath, [tsc, "-p", root], { stdio: "inherit" });
// The same types, in a folder whose modules are CommonJS.
const dist = join(root, "dist");
for (const name of readdirSync(dist).filter((name) => name.endsWith(".d.ts")))
  cpSync(join(dist, name), join(dist, "cjs", name));
writeFileSync(join(dist, "cjs/package.json"), '{ "type": "commonjs" }\n');
if (process.argv.includes("--browser"))
  cpSync(join(dist, "telecast.js"), join(root, "../../src/edge/door/telecast.js"));
