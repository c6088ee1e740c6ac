"""Browser apps of other origins (CORS): who may call from a page, and what its script may read.

There are no cookies: a script sends its own key or token, so no origin is let in by a visitor's.
"""

from __future__ import annotations

from fastapi import FastAPI
from starlette.middleware.cors import CORSMiddleware

METHODS = ("GET", "HEAD", "POST", "DELETE")
READABLE = (
    "Content-Disposition",
    "Content-Range",
    "ETag",
    "Idempotency-Replayed",
    "Link",
    "Location",
    "Preference-Applied",
    "RateLimit",
    "RateLimit-Policy",
    "Retry-After",
    "WWW-Authenticate",
    "X-Request-Id",
)
"""What answers say in header fields; a browser hides all others from a page of another origin."""


def allow_origins(app: FastAPI, origins: tuple[str, ...]) -> None:
    """Let pages of these origins in, and no others.

    Added last, it sees every answer, those to errors that nobody expected too.
    """
    if not origins:
        return
    app.add_middleware(
        CORSMiddleware,
        allow_origins=origins,
        allow_methods=METHODS,
        # Clients bring fields of their own (the OpenAI client a dozen), and none of them lets in.
        allow_headers=("*",),
        expose_headers=READABLE,
    )
