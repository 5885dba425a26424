"""A small shop: products in Postgres (SQLAlchemy, asyncpg), read through Redis, served by FastAPI."""
