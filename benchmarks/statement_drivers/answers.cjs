// The protocol of these programs: see answers.py.
const fs = require("node:fs");
const readline = require("node:readline");

const TIMEOUT = 1000; // milliseconds; of the client

function describe(error) {
  const kind = error?.constructor?.name ?? typeof error;
  return { kind, code: String(error?.code ?? ""), text: String(error?.message ?? error) };
}

async function attempt(action) {
  try { await action(); } catch (error) { return describe(error); }
  return null;
}

function version(name) {
  const path = require.resolve.paths(name).map((each) => `${each}/${name}/package.json`).find((each) => fs.existsSync(each));
  return { version: `${name} ${JSON.parse(fs.readFileSync(path)).version}` };
}

async function serve(name, play) {
  for await (const line of readline.createInterface({ input: process.stdin })) {
    process.stdout.write(`${JSON.stringify(line.trim() === "version" ? version(name) : await play(line.trim()))}\n`);
  }
  process.exit(0);
}

module.exports = { TIMEOUT, attempt, describe, serve };
