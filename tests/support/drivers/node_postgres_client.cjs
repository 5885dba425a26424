// Use Postgres by node-postgres: node node_postgres_client.cjs URL
const { Client, Pool } = require("pg");

async function failing(promise) {
  try { await promise; } catch { return; }
  throw new Error("expected an error");
}

async function main(url) {
  const client = new Client({ connectionString: url, application_name: "story" });
  await client.connect();
  await client.query("DROP TABLE IF EXISTS story_node; CREATE TABLE story_node (id int PRIMARY KEY, name text)");
  for (let id = 0; id < 4; id++) await client.query("INSERT INTO story_node VALUES ($1, $2)", [id, `name ${id}`]);
  for (let id = 0; id < 3; id++) await client.query({ name: "by-id", text: "SELECT name FROM story_node WHERE id = $1", values: [id] });
  await client.query("SELECT n, repeat('x', 40) FROM generate_series(1, 300) AS n");
  await client.query("SELECT repeat('x', 20000)");
  await client.query("BEGIN");
  await client.query("UPDATE story_node SET name = 'committed' WHERE id = $1", [1]);
  await client.query("COMMIT");
  await client.query("BEGIN");
  await failing(client.query("INSERT INTO story_node VALUES ($1, 'twice')", [1]));
  await failing(client.query("SELECT 1"));
  await client.query("ROLLBACK");
  const heard = new Promise((resolve) => client.once("notification", resolve));
  await client.query("LISTEN story");
  await client.query("NOTIFY story, 'payload'");
  await heard;
  await Promise.all([1, 2, 3, 4].map((n) => client.query("SELECT $1::int", [n])));
  await client.end();
  const pool = new Pool({ connectionString: url, max: 2 });
  await Promise.all([1, 2, 3, 4].map((n) => pool.query("SELECT $1::int", [n])));
  await pool.end();
  const missing = new Client({ connectionString: url.replace(/\/[^/]*$/, "/missing") });
  await failing(missing.connect());
}

main(process.argv[2]).catch((error) => { console.error(error); process.exit(1); });
