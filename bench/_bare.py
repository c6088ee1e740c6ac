"""The least a durable `POST /jobs` could do: read the body, store it, answer. For `bench load`.

python -m bench._bare REDIS_URL PORT
"""

from __future__ import annotations

import sys
import uuid

import uvicorn
from fastapi import FastAPI, Request
from redis.asyncio import Redis


def bare(redis_url: str) -> FastAPI:
    """FastAPI and redis-py, and nothing else."""
    app = FastAPI()
    client = Redis.from_url(redis_url)

    @app.post("/jobs", status_code=202)
    async def submit(request: Request) -> dict[str, str]:
        job_id = uuid.uuid4().hex
        await client.set(f"bare:{job_id}", await request.body())
        return {"id": job_id}

    return app


if __name__ == "__main__":
    uvicorn.run(bare(sys.argv[1]), port=int(sys.argv[2]), log_config=None, access_log=False)
