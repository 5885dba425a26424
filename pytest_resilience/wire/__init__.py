"""The protocols of Postgres, Redis, HTTP and Toxiproxy, without sockets."""
