"""``s3://bucket/prefix?endpoint=https://host&region=name``: any S3-compatible store, by boto3.

``&public=https://host`` names where clients reach the same store, if that is somewhere else: links
are signed for that host, since a signature covers the host.

Credentials come from boto3's own chain (environment, profile, instance role). Uploads are verified
by a HEAD; downloads that end early are tried again, which boto3 does not do.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import SplitResult, parse_qs

import boto3
from boto3.exceptions import Boto3Error
from boto3.s3.transfer import TransferConfig
from botocore.config import Config
from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    IncompleteReadError,
    ReadTimeoutError,
    ResponseStreamingError,
)

from service.contract.errors import ObjectNotFound, StorageError
from service.contract.storage.base import StoredObject, checked_key

T = TypeVar("T")

READ_TRIES = 3
_BODY_ENDED_EARLY = (IncompleteReadError, ReadTimeoutError, ResponseStreamingError)
_CONFIG = Config(
    retries={"max_attempts": 4, "mode": "standard"},
    connect_timeout=3,
    read_timeout=30,
    s3={"addressing_style": "path"},
    signature_version="s3v4",
)

_NO_THREADS = TransferConfig(use_threads=False)
"""One part after the other, in the caller's thread. Where memory is short a thread can die while it
starts, and whoever started it waits for it for ever."""


class S3Storage:
    """Objects in a bucket. Implements `Storage`."""

    def __init__(self, client: Any, bucket: str, prefix: str = "", signer: Any = None) -> None:
        self._client = client
        self._signer = signer or client
        self._bucket = bucket
        self._prefix = f"{prefix}/" if prefix else ""

    @classmethod
    def open(cls, url: SplitResult) -> S3Storage:
        """Open the bucket of an ``s3://`` URL; it must exist."""
        options = {name: values[-1] for name, values in parse_qs(url.query).items()}
        unknown = options.keys() - {"endpoint", "region", "public"}
        if not url.netloc or unknown:
            raise StorageError(
                "write an S3 storage as s3://bucket/prefix?endpoint=...&region=...&public=..."
            )

        def client(endpoint: str | None) -> Any:
            region = options.get("region")
            return boto3.client("s3", endpoint_url=endpoint, region_name=region, config=_CONFIG)

        signer = client(options["public"]) if "public" in options else None
        return cls(client(options.get("endpoint")), url.netloc, url.path.strip("/"), signer)

    def put(self, key: str, body: bytes, content_type: str) -> None:
        with _translated(key):
            self._client.put_object(
                Bucket=self._bucket, Key=self._key(key), Body=body, ContentType=content_type
            )
        self._verify(key, len(body))

    def put_file(self, key: str, path: Path, content_type: str) -> None:
        with _translated(key):
            self._client.upload_file(
                str(path),
                self._bucket,
                self._key(key),
                ExtraArgs={"ContentType": content_type},
                Config=_NO_THREADS,
            )
        self._verify(key, path.stat().st_size)

    def get(self, key: str) -> bytes:
        def read() -> bytes:
            answer = self._client.get_object(Bucket=self._bucket, Key=self._key(key))
            body: bytes = answer["Body"].read()
            return body

        with _translated(key):
            return _again(read)

    def get_file(self, key: str, path: Path) -> None:
        with _translated(key):
            where = (self._bucket, self._key(key), str(path))
            _again(lambda: self._client.download_file(*where, Config=_NO_THREADS))

    def head(self, key: str) -> StoredObject | None:
        try:
            with _translated(key):
                found = self._client.head_object(Bucket=self._bucket, Key=self._key(key))
        except ObjectNotFound:
            return None
        return StoredObject(key, found["ContentLength"], found["LastModified"].timestamp())

    def delete(self, key: str) -> None:
        with _translated():
            self._client.delete_object(Bucket=self._bucket, Key=self._key(key))

    def list(self, prefix: str) -> Iterator[StoredObject]:
        pages = self._client.get_paginator("list_objects_v2")
        with _translated():
            for page in pages.paginate(Bucket=self._bucket, Prefix=self._prefix + prefix):
                for item in page.get("Contents", []):
                    key = item["Key"].removeprefix(self._prefix)
                    yield StoredObject(key, item["Size"], item["LastModified"].timestamp())

    def signed_url(self, key: str, *, expires_in: int, content_type: str, filename: str) -> str:
        with _translated(key):
            url: str = self._signer.generate_presigned_url(
                "get_object",
                Params={
                    "Bucket": self._bucket,
                    "Key": self._key(key),
                    "ResponseContentType": content_type,
                    "ResponseContentDisposition": f'inline; filename="{filename}"',
                },
                ExpiresIn=expires_in,
            )
        return url

    def clear_unfinished(self, older_than: float) -> int:
        """See `Storage.clear_unfinished`: multipart uploads that were never completed."""
        begun, cleared = time.time() - older_than, 0
        pages = self._client.get_paginator("list_multipart_uploads")
        with _translated():
            for page in pages.paginate(Bucket=self._bucket, Prefix=self._prefix):
                for upload in page.get("Uploads", []):
                    if upload["Initiated"].timestamp() < begun:
                        self._abort(upload["Key"], upload["UploadId"])
                        cleared += 1
        return cleared

    def _abort(self, key: str, upload: str) -> None:
        with contextlib.suppress(ObjectNotFound), _translated(key):  # somebody was faster
            self._client.abort_multipart_upload(Bucket=self._bucket, Key=key, UploadId=upload)

    def make_bucket(self) -> bool:
        """Make the bucket; false if it was there. Raises StorageError."""
        try:
            self.check()
        except StorageError:
            with _translated():
                self._client.create_bucket(Bucket=self._bucket)
            return True
        return False

    def keeps_what_is_there(self, key: str) -> bool | None:
        """Whether a write that asks for it leaves a stored object alone; None: it cannot ask.

        Asks by writing over an object (``If-None-Match: *``). Raises StorageError.
        """
        try:
            with _translated(key):
                self._client.put_object(
                    Bucket=self._bucket, Key=self._key(key), Body=b"", IfNoneMatch="*"
                )
        except StorageError as error:
            status = getattr(error.__cause__, "response", {}).get("ResponseMetadata", {})
            answered = status.get("HTTPStatusCode")
            if answered == 412:
                return True
            if answered in (400, 501):
                return None
            raise
        return False

    def check(self) -> None:
        with _translated():
            self._client.head_bucket(Bucket=self._bucket)

    def _key(self, key: str) -> str:
        return self._prefix + checked_key(key)

    def _verify(self, key: str, size: int) -> None:
        found = self.head(key)
        if found is None or found.size_bytes != size:
            raise StorageError(f"the store acknowledged {key} but does not have it whole")


def _again(read: Callable[[], T]) -> T:
    """Read once more when the body ended early."""
    for _ in range(READ_TRIES - 1):
        try:
            return read()
        except _BODY_ENDED_EARLY:
            continue
    return read()


@contextmanager
def _translated(key: str = "") -> Iterator[None]:
    try:
        yield
    except ClientError as error:
        status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode")
        if status == 404 and key:
            raise ObjectNotFound(key) from error
        raise StorageError(f"the store answered {status} to {error.operation_name}") from error
    except (BotoCoreError, Boto3Error, OSError) as error:
        raise StorageError(f"the store cannot be used: {type(error).__name__}") from error
