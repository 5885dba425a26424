"""python -m shop, with DATABASE_URL, REDIS_URL and PORT."""

import os

import uvicorn

from shop.app import app

uvicorn.run(app, host="127.0.0.1", port=int(os.environ.get("PORT", "8000")), log_level="warning")
