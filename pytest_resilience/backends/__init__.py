"""Where proxies and servers come from."""
