// Redis as an optional cache. While it is down, a read returns null and a write is dropped, within BUDGET milliseconds.

import { Redis } from "ioredis";

const BUDGET = 250; // milliseconds for a command
const TTL = 30; // seconds, the largest age of an entry

export class Cache {
  #redis;

  constructor(url) {
    this.#redis = new Redis(url, {
      commandTimeout: BUDGET,
      connectTimeout: BUDGET,
      enableOfflineQueue: false, // fail at once while there is no connection
      maxRetriesPerRequest: 0, // the default of 20 repeats commands in the background
      retryStrategy: () => 100, // milliseconds to the next attempt to connect; the default grows
      socketTimeout: 8 * BUDGET, // replaces a connection that died silently, on which commands fail for a quarter of an hour otherwise
    });
    this.#redis.on("error", (error) => console.error(`redis: ${error.message}`));
  }

  async get(code) {
    try {
      return await this.#redis.get(`link:${code}`);
    } catch {
      return null;
    }
  }

  async put(code, url) {
    try {
      await this.#redis.set(`link:${code}`, url, "EX", TTL);
    } catch {
      // the next read asks Postgres again
    }
  }

  close() {
    this.#redis.disconnect();
  }
}
