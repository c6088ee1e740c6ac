"""The objects of a `file://` storage, for whoever holds a link that is signed and not expired.

Byte ranges work, so a player can seek. Other storages serve their links themselves.
"""

from __future__ import annotations

from fastapi import APIRouter, Request, Response
from fastapi.responses import FileResponse

from service.api.deps import TheServices
from service.api.errors import ApiProblem, documented
from service.contract.errors import ObjectNotFound
from service.contract.storage.file_scheme import FileStorage

router = APIRouter(tags=["video"])


@router.get(
    "/files/{key:path}",
    response_class=FileResponse,
    responses={
        200: {"description": "The object.", "content": {"video/mp4": {}}},
        206: {"description": "The range asked for.", "content": {"video/mp4": {}}},
        **documented(403, 404, 416, 500),
    },
)
@router.head("/files/{key:path}", include_in_schema=False)
def read_file(key: str, request: Request, parts: TheServices) -> Response:
    """Follow a signed link."""
    storage = parts.storage
    if not isinstance(storage, FileStorage):
        raise ApiProblem("not_found", "This service's files are served by its storage.")
    if not storage.verify(key, request.query_params):
        raise ApiProblem("invalid_signature", "Read the job again for a fresh link.")
    try:
        path = storage.path(key)
        stat = path.stat()
    except (ObjectNotFound, FileNotFoundError):
        raise ApiProblem("not_found", "The file has been removed.") from None
    return FileResponse(
        path,
        stat_result=stat,
        media_type=request.query_params["type"],
        filename=request.query_params["name"],
        content_disposition_type="inline",
        # A key is never written twice, so what a link leads to never changes.
        headers={"Cache-Control": "private, max-age=900, immutable"},
    )
