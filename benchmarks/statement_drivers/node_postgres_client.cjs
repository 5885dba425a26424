// Play scenarios by node-postgres: node node_postgres_client.cjs URL
const { Client, Pool } = require("pg");
const { TIMEOUT, attempt, serve } = require("./answers.cjs");

const url = process.argv[2];
const options = { connectionString: url, query_timeout: TIMEOUT, connectionTimeoutMillis: TIMEOUT };
const INSERT = "INSERT INTO acts VALUES (1)", READ = "SELECT n FROM generate_series(1, 5) AS n", NEXT = "SELECT 1";

async function connect() {
  const client = new Client(options);
  client.on("error", () => {});
  try { await client.connect(); } finally { client.end().catch(() => {}); }
}

async function on(client, scenario) {
  if (scenario === "alone" || scenario === "read") {
    return { raised: await attempt(() => client.query(scenario === "read" ? READ : INSERT)), next: await attempt(() => client.query(NEXT)) };
  }
  await client.query("BEGIN");
  let raised = await attempt(() => client.query(INSERT));
  if (scenario === "commit") raised = await attempt(() => client.query("COMMIT"));
  const next = await attempt(() => client.query(NEXT));
  if (scenario === "transaction") await attempt(() => client.query(raised ? "ROLLBACK" : "COMMIT"));
  return { raised, next };
}

serve("pg", async (scenario) => {
  if (scenario === "connect") return { raised: await attempt(connect), checkout: await attempt(connect) };
  const pool = new Pool({ ...options, max: 1 });
  pool.on("error", () => {});
  const client = await pool.connect();
  client.on("error", () => {});
  const answer = await on(client, scenario);
  client.release();
  answer.checkout = await attempt(() => pool.query(NEXT));
  pool.end().catch(() => {});
  return answer;
});
