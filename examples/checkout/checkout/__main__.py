"""python -m checkout, with DATABASE_URL, PAYMENTS_URL and PORT."""

import os

import uvicorn

from checkout.app import app

uvicorn.run(app, host="127.0.0.1", port=int(os.environ.get("PORT", "8000")), log_level="warning")
