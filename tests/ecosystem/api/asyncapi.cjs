// Reads an AsyncAPI document as generators and viewers do, and prints what the parser has to say about it, one finding per line.
//
// asyncapi.cjs FOLDER DOCUMENT: the folder has @asyncapi/parser in its node_modules.

const { readFileSync } = require("node:fs");
const { join } = require("node:path");

const [folder, path] = process.argv.slice(2);
const { Parser } = require(join(folder, "node_modules/@asyncapi/parser"));

new Parser().parse(readFileSync(path, "utf8"), { source: path }).then(({ document, diagnostics }) => {
  for (const { code, message, path: at } of diagnostics) console.log(`${at.join("/")}: ${message} (${code})`);
  if (!document) process.exitCode = 1;
  else console.log(`channels: ${document.channels().length}, messages: ${document.messages().length}`);
});
