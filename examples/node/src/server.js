// node src/server.js, with DATABASE_URL, REDIS_URL and PORT.

import { randomUUID } from "node:crypto";
import http from "node:http";

import { Cache } from "./cache.js";
import { Database, Unavailable } from "./database.js";

const LARGEST_LIST = 2 ** 20; // bytes. It becomes strings, which are in the heap.
const LARGEST_PICTURE = 128 * 2 ** 20; // bytes. It stays a buffer, which is outside of the heap.

const database = new Database(process.env.DATABASE_URL);
const cache = new Cache(process.env.REDIS_URL);

// Read a body into memory that is allocated first, so that a body for which there is no memory fails before it is read.
async function bodyOf(request, largest) {
  const length = Number(request.headers["content-length"] ?? NaN);
  if (Number.isNaN(length)) throw new Answer(411, { error: "needs Content-Length" });
  if (length > largest) throw new Answer(413, { error: "too large" });
  const body = allocate(length);
  let filled = 0;
  for await (const chunk of request) filled += chunk.copy(body, filled);
  return body;
}

// Memory for a buffer can be refused. Without memory for its heap, V8 aborts the process.
function allocate(length) {
  try {
    return Buffer.alloc(length);
  } catch (error) {
    console.error(`no memory for a body of ${length} bytes: ${error.message}`);
    throw new Answer(503, { error: "no memory" }, { "retry-after": "1" });
  }
}

class Answer extends Error {
  constructor(status, body, headers = {}) {
    super();
    Object.assign(this, { status, body, headers });
  }
}

async function create(request) {
  const body = await bodyOf(request, LARGEST_LIST);
  const key = request.headers["idempotency-key"] ?? randomUUID();
  return new Answer(201, { codes: await database.create(key, body.toString().split("\n").filter(Boolean)) });
}

async function setPicture(request, code) {
  const found = await database.setPicture(code, await bodyOf(request, LARGEST_PICTURE));
  return found ? new Answer(200, { code }) : new Answer(404, { error: "no such link" });
}

async function read(request, code) {
  const cached = await cache.get(code);
  if (cached !== null) return new Answer(200, { url: cached }, { "x-source": "redis" });
  const url = await database.find(code);
  if (url === null) return new Answer(404, { error: "no such link" });
  await cache.put(code, url);
  return new Answer(200, { url }, { "x-source": "postgres" });
}

async function route(request) {
  const [, first, code] = request.url.split("/");
  if (request.method === "POST" && first === "links") return await create(request);
  if (request.method === "PUT" && first === "pictures") return await setPicture(request, code);
  if (first === "links" && code) return await read(request, code);
  if (first === "totals") return new Answer(200, { links: await database.count() });
  if (first === "health") return new Answer(200, { status: "alive" });
  if (first === "readyz") return new Answer(200, { status: await database.ping().then(() => "ready") });
  return new Answer(404, { error: "no such path" });
}

function answerTo(error) {
  if (error instanceof Answer) return error;
  if (error instanceof Unavailable) return new Answer(503, { error: error.message }, { "retry-after": "1" });
  if (error.code === "ECONNRESET") return new Answer(400, { error: "incomplete body" }); // the client has gone
  console.error(error);
  return new Answer(500, { error: "internal" });
}

const server = http.createServer(async (request, response) => {
  const { status, body, headers } = await route(request).catch(answerTo);
  request.resume(); // the rest of a body that was not read
  if (!server.listening) headers.connection = "close"; // otherwise a client that keeps its connection delays the end by five seconds
  response.writeHead(status, { "content-type": "application/json", ...headers });
  response.end(JSON.stringify(body));
});

process.once("SIGTERM", () => {
  // Requests that have begun get their answers, and no others come in.
  server.close(async () => {
    await database.close();
    cache.close();
  });
  server.closeIdleConnections();
});

server.listen(Number(process.env.PORT ?? 8000), "127.0.0.1", () => console.log(`listening on port ${server.address().port}`));
