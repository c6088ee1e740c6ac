"""The web page at `/`: static files from the package, under a policy that runs only those files."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import urlsplit

from fastapi import APIRouter, Response
from fastapi.responses import FileResponse
from starlette.staticfiles import StaticFiles

from service.api.deps import TheServices
from service.contract.storage.base import Storage

FOLDER = Path(__file__).parents[1] / "page"

router = APIRouter(include_in_schema=False)


class PageFiles(StaticFiles):
    """The page's own files, which a browser asks about again, so that an update is seen at once."""

    def file_response(self, *args: object, **kwargs: object) -> Response:
        """Answer with a file, or 304."""
        response = super().file_response(*args, **kwargs)  # type: ignore[arg-type]
        response.headers["Cache-Control"] = "no-cache"
        return response


def page_files() -> PageFiles:
    """What the page loads, to be mounted at `/page`."""
    return PageFiles(directory=FOLDER)


@router.get("/")
@router.head("/")
def page(parts: TheServices) -> Response:
    """The page."""
    headers = {"Content-Security-Policy": _policy(parts.storage), "Cache-Control": "no-cache"}
    return FileResponse(FOLDER / "index.html", media_type="text/html", headers=headers)


def _policy(storage: Storage) -> str:
    """Only what came with the gateway runs; pictures and films also come from the storage."""
    rules = {
        "default-src": "'none'",
        "script-src": "'self'",
        "style-src": "'self'",
        "connect-src": "'self'",
        "img-src": f"'self' blob: {_origin(storage)}",
        "media-src": f"'self' blob: {_origin(storage)}",
        "form-action": "'none'",
        "base-uri": "'none'",
        "frame-ancestors": "'none'",
        # Nothing may ever become markup by way of a string.
        "require-trusted-types-for": "'script'",
        "trusted-types": "'none'",
    }
    return "; ".join(f"{name} {value}" for name, value in rules.items())


def _origin(storage: Storage) -> str:
    """Where signed links lead, learnt from one, since only the scheme knows."""
    url = storage.signed_url("page", expires_in=60, content_type="video/mp4", filename="page.mp4")
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc}"
