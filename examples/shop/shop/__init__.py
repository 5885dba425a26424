"""A small shop with FastAPI. Its products are in Postgres (SQLAlchemy, asyncpg) and are read through Redis."""
