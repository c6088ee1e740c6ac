"""Object storage behind one protocol: one module a URL scheme, registered at the foot."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from urllib.parse import SplitResult, urlsplit

from service.contract.errors import StorageError
from service.contract.storage import file_scheme, memory_scheme, s3_scheme
from service.contract.storage.base import Storage, StoredObject

__all__ = ["SCHEMES", "LinkSigning", "Storage", "StoredObject", "open_storage"]


@dataclass(frozen=True)
class LinkSigning:
    """For schemes whose links the gateway serves itself.

    Attributes:
        public_url: Where clients reach the gateway.
        secret: Signs the links.
    """

    public_url: str = "http://127.0.0.1:8000"
    secret: bytes = b""


def open_storage(url: str, signing: LinkSigning | None = None) -> Storage:
    """Open the storage at a URL.

    Raises:
        StorageError: There is no such scheme, or the URL lacks something.
    """
    parts = urlsplit(url)
    try:
        scheme = SCHEMES[parts.scheme]
    except KeyError:
        known = ", ".join(f"{name}://" for name in SCHEMES)
        raise StorageError(f"no storage scheme {parts.scheme!r}; use one of: {known}") from None
    return scheme(parts, signing or LinkSigning())


SCHEMES: dict[str, Callable[[SplitResult, LinkSigning], Storage]] = {
    "file": lambda url, signing: file_scheme.FileStorage.open(
        url, signing.public_url, signing.secret
    ),
    "s3": lambda url, _: s3_scheme.S3Storage.open(url),
    "memory": lambda url, _: memory_scheme.MemoryStorage.open(url),
}
