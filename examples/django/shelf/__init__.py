"""A library's shelf: books in Postgres, cached in Redis."""
