// Connections to Postgres.

import pg from "pg";

const STEP = 400; // milliseconds for a connection or a statement; none of them is limited by default

export function openPool(url) {
  const pool = new pg.Pool({ connectionString: url, max: 5, connectionTimeoutMillis: STEP, query_timeout: STEP });
  // Without these listeners, a lost connection ends the process: the first is for idle connections, the second for those in use.
  const log = (error) => console.error(`postgres: a connection was lost: ${error.message}`);
  pool.on("error", log);
  pool.on("connect", (client) => client.on("error", log));
  return pool;
}
