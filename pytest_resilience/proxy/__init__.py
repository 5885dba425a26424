"""A TCP door that we can make worse: our own Toxiproxy, and the client for any."""
