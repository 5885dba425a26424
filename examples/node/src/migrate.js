// node src/migrate.js, with DATABASE_URL: create the tables.

import pg from "pg";

const client = new pg.Client({ connectionString: process.env.DATABASE_URL });
await client.connect();
await client.query(`
  create table links (
    key text, number int, code text unique not null, url text not null, picture bytea, primary key (key, number)
  );
  create table totals (links bigint not null);
  insert into totals values (0);
`);
await client.end();
