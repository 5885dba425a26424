// Postgres. A request gets an answer or `Unavailable` before its deadline, and a link is created once, however often that is tried.

import { randomBytes } from "node:crypto";
import { setTimeout as sleep } from "node:timers/promises";
import pg from "pg";

import { openPool } from "./pool.js";

export const DEADLINE = 1000; // milliseconds that one request may spend on Postgres, the wait for a connection included
const PAUSE = 20; // milliseconds between two attempts

// serialization_failure, deadlock_detected, and unique_violation by an earlier attempt that was still running
const CONFLICTS = new Set(["40001", "40P01", "23505"]);

export class Unavailable extends Error {}

export class Database {
  #pool;

  constructor(url) {
    this.#pool = openPool(url);
  }

  ping() {
    return this.#inTime(() => this.#pool.query("select 1"));
  }

  // Return the URL of a link, or null.
  find(code) {
    return this.#inTime(async () => {
      const { rows } = await this.#pool.query("select url from links where code = $1", [code]);
      return rows.length ? rows[0].url : null;
    });
  }

  // Create links and return their codes. Links that were created under the same key are returned, and nothing is created.
  create(key, urls) {
    return this.#inTime(() => this.#transaction((client) => insert(client, key, urls)));
  }

  // Set the picture of a link, a buffer. Return whether there is such a link.
  setPicture(code, picture) {
    return this.#inTime(async () => {
      const { rowCount } = await this.#pool.query("update links set picture = $2 where code = $1", [code, picture]);
      return rowCount === 1;
    });
  }

  async count() {
    const { rows } = await this.#inTime(() => this.#pool.query("select links from totals"));
    return Number(rows[0].links);
  }

  async close() {
    await this.#pool.end();
  }

  async #transaction(work) {
    const client = await this.#pool.connect();
    let broken = true; // until the client is known to be outside of a transaction, it must not go back into the pool
    try {
      await client.query("begin isolation level serializable");
      const result = await work(client);
      await client.query("commit");
      broken = false;
      return result;
    } finally {
      client.release(broken);
    }
  }

  // Repeat an operation until it succeeds or until the deadline. It may have been done when it failed, so it has to be idempotent.
  async #inTime(operation) {
    const end = performance.now() + DEADLINE;
    let last = null;
    for (;;) {
      const left = end - performance.now();
      if (left <= 0) throw new Unavailable(last?.message ?? "no answer in time");
      try {
        return await before(left, operation());
      } catch (error) {
        if (!isTemporary(error)) throw error;
        last = error;
        await sleep(PAUSE);
      }
    }
  }
}

async function insert(client, key, urls) {
  const earlier = await client.query("select code from links where key = $1 order by number", [key]);
  if (earlier.rows.length) return earlier.rows.map((row) => row.code);
  const codes = urls.map(() => randomBytes(6).toString("base64url"));
  await client.query(
    "insert into links (key, number, code, url) select $1, * from unnest($2::int[], $3::text[], $4::text[])",
    [key, urls.map((_, number) => number), codes, urls],
  );
  await client.query("update totals set links = links + $1", [urls.length]);
  return codes;
}

// Return the result of a promise, or reject after some milliseconds. The operation itself ends by its own time-outs.
function before(milliseconds, promise) {
  const stop = new AbortController();
  const late = sleep(milliseconds, null, { signal: stop.signal }).then(() => {
    throw new Unavailable("no answer in time");
  });
  late.catch(() => {}); // aborted
  return Promise.race([promise, late]).finally(() => stop.abort());
}

// True if a later attempt may succeed. Errors of node-postgres itself, such as a time-out, have no SQLSTATE.
function isTemporary(error) {
  if (error instanceof Unavailable || !(error instanceof pg.DatabaseError)) return true;
  return CONFLICTS.has(error.code) || /^(08|53|57P|25006)/.test(error.code);
}
