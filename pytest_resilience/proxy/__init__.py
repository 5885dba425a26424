"""A TCP proxy with Toxiproxy's HTTP API, which disturbs the connections that it relays."""
