"""The client of a Toxiproxy's API."""
