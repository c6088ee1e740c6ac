"""`python -m service doctor`: is this deployment set up so that it works, and what to fix if not.

Every check says one line: what was looked at, what was found, and for a fault the way out. Redis is
asked what it promises; the storage is used with the very requests that the service makes of it.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import secrets
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from redis import Redis
from redis.exceptions import RedisError, ResponseError

from service.contract.access import Access
from service.contract.connections import connect
from service.contract.errors import StorageError
from service.contract.settings import Settings
from service.contract.storage import open_storage
from service.contract.storage.base import Storage

MOST_SKEW_SECONDS = 60.0
"""Signed links are refused by stores whose clock is some minutes away."""

LARGE_BYTES = 9 * 2**20
"""Above eight MiB boto3 uploads in parts, as it does with videos."""


@dataclass(frozen=True)
class Finding:
    """What one check found.

    Attributes:
        what: Was looked at.
        found: In words.
        way_out: What to do about it; empty if nothing is wrong.
    """

    what: str
    found: str
    way_out: str = ""

    def line(self) -> str:
        """For people."""
        mark = "FIX " if self.way_out else "ok  "
        return f"{mark} {self.what}: {self.found}" + (self.way_out and f"\n     -> {self.way_out}")


def examine(
    settings: Settings, *, make_bucket: bool = False, works: bool | None = None
) -> Iterator[Finding]:
    """Look at everything; nothing stays behind in Redis or the storage.

    Args:
        settings: Of the deployment.
        make_bucket: Make the bucket of an ``s3://`` storage first, if it is not there.
        works: Whether a worker is to run here, whose GPU and weights are looked at, too. Default:
            where there is a torch. A gateway is told the same settings and has neither.
    """
    yield from _redis(settings)
    if make_bucket and settings.storage_url.startswith("s3://"):
        yield from _bucket(settings)
    yield from _storage(settings)
    yield from _gateway(settings)
    if works if works is not None else importlib.util.find_spec("torch") is not None:
        yield from _gpu(settings)
        yield from _weights(settings)
    else:
        yield Finding("GPU and weights", "no torch here (a gateway needs none): ask on a worker")


def run(*, make_bucket: bool) -> int:
    """Print the findings; 1 if something is to be fixed."""
    faults = 0
    for finding in examine(Settings(), make_bucket=make_bucket):
        sys.stdout.write(finding.line() + "\n")
        sys.stdout.flush()
        faults += bool(finding.way_out)
    return int(faults > 0)


# -- Redis


def _redis(settings: Settings) -> Iterator[Finding]:
    with connect(settings.redis_url, retries=0, answer_seconds=5.0) as client:
        try:
            client.ping()
        except (RedisError, OSError) as error:
            way = "start it, or correct FRAMEPACK_REDIS_URL (host, port, password)"
            yield Finding("Redis", type(error).__name__, way)
            return
        yield from _promises(client)
        yield _clock(client)


def _promises(client: Redis) -> Iterator[Finding]:
    wanted = {"appendonly": "yes", "appendfsync": "always", "maxmemory-policy": "noeviction"}
    for name, value in wanted.items():
        try:
            found = str(client.config_get(name).get(name))
        except ResponseError:
            way = f"make sure that {name} is {value} where the server is configured"
            yield Finding(f"Redis {name}", "the server does not tell", way)
            continue
        way = "" if found == value else f"set {name} {value}: else accepted jobs may be lost"
        yield Finding(f"Redis {name}", found, way)


def _clock(client: Redis) -> Finding:
    seconds, microseconds = client.time()
    skew = time.time() - (seconds + microseconds / 1e6)
    fine = abs(skew) < MOST_SKEW_SECONDS
    way = "" if fine else "set both clocks by NTP: signed links would be refused"
    return Finding("Clock", f"{skew:+.1f} s from the Redis server's", way)


# -- Storage


def _bucket(settings: Settings) -> Iterator[Finding]:
    from service.contract.storage.s3_scheme import S3Storage

    try:
        storage = open_storage(settings.storage_url)
        assert isinstance(storage, S3Storage)
        made = storage.make_bucket()
    except StorageError as error:
        yield Finding("Bucket", str(error), "check FRAMEPACK_STORAGE_URL and the AWS credentials")
    else:
        yield Finding("Bucket", "made" if made else "there already")


def _storage(settings: Settings) -> Iterator[Finding]:
    try:
        storage = open_storage(settings.storage_url, settings.link_signing())
        storage.check()
    except StorageError as error:
        way = "check FRAMEPACK_STORAGE_URL, the credentials and that the bucket or folder exists"
        yield Finding("Storage", str(error), way)
        return
    key = f"doctor/{secrets.token_hex(8)}"
    checks: tuple[tuple[str, Callable[[Storage, str], str], str], ...] = (
        ("write, read, list, head", _round_trip, "allow PutObject, GetObject, ListBucket"),
        ("a large object, in parts", _large, "allow multipart uploads and AbortMultipartUpload"),
        (
            "signed link",
            _signed,
            "see that FRAMEPACK_PUBLIC_URL and the signing settings are right",
        ),
        ("expired and forged links", _refused, "do not use this store: it checks no signatures"),
        ("conditional write", _conditional, "allow PutObject with If-None-Match"),
        ("delete", _deleted, "allow DeleteObject"),
    )
    for what, check, way in checks:
        try:
            yield Finding(f"Storage: {what}", check(storage, key))
        except (StorageError, _Unexpected, OSError) as error:
            yield Finding(f"Storage: {what}", str(error) or type(error).__name__, way)


class _Unexpected(Exception):  # noqa: N818 - a finding, not an error
    """The storage did something else than it should."""


def _round_trip(storage: Storage, key: str) -> str:
    body = secrets.token_bytes(1024)
    storage.put(key, body, "video/mp4")
    if storage.get(key) != body:
        raise _Unexpected("other bytes came back")
    if key not in {found.key for found in storage.list("doctor/")}:
        raise _Unexpected("a stored object is not listed")
    return "as they should be"


def _large(storage: Storage, key: str) -> str:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "large")
        path.write_bytes(bytes(LARGE_BYTES))
        storage.put_file(f"{key}-large", path, "video/mp4")
    found = storage.head(f"{key}-large")
    storage.delete(f"{key}-large")
    if found is None or found.size_bytes != LARGE_BYTES:
        raise _Unexpected("it did not arrive whole")
    return f"{LARGE_BYTES} bytes"


def _link(storage: Storage, key: str, seconds: int) -> str:
    return storage.signed_url(
        key, expires_in=seconds, content_type="video/mp4", filename="probe.mp4"
    )


def _signed(storage: Storage, key: str) -> str:
    url = _link(storage, key, 60)
    if not url.startswith("http"):
        return "this storage has none"
    status, body = _fetch(url)
    if status is None:
        return "no gateway runs that could answer yet"
    if status != 200 or len(body) != 1024:
        raise _Unexpected(f"answered {status}")
    return "leads to the bytes"


def _refused(storage: Storage, key: str) -> str:
    url = _link(storage, key, 1)
    if _fetch(url)[0] is None:
        return "no gateway runs that could answer yet"
    for name, forged in (("forged", url[:-2] + ("aa" if url[-2:] != "aa" else "bb")),):
        if _fetch(forged)[0] == 200:
            raise _Unexpected(f"a {name} link was answered")
    time.sleep(2.5)
    if _fetch(url)[0] == 200:
        raise _Unexpected("an expired link was answered")
    return "refused"


def _conditional(storage: Storage, key: str) -> str:
    """Told, not asked for: a key carries the fence of its writer, so no two ever write the same."""
    from service.contract.storage.s3_scheme import S3Storage

    if not isinstance(storage, S3Storage):
        return "not a store's affair here: files are moved into place"
    kept = storage.keeps_what_is_there(key)
    if kept is None:
        return "this store has none; nothing here relies on it"
    return "what is there is kept" if kept else "ignored by this store; nothing here relies on it"


def _deleted(storage: Storage, key: str) -> str:
    storage.delete(key)
    if storage.head(key) is not None:
        raise _Unexpected("a deleted object is still there")
    return "as it should be"


def _fetch(url: str) -> tuple[int | None, bytes]:
    """Status and body; None where nobody listens."""
    try:
        with urllib.request.urlopen(url, timeout=10) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as error:
        return error.code, b""
    except urllib.error.URLError:
        return None, b""


# -- The rest


def _gateway(settings: Settings) -> Iterator[Finding]:
    yield from _api_keys(settings)
    status, _ = _fetch(f"{settings.public_url}/healthz")
    found = "no gateway answers there yet" if status is None else f"answered {status}"
    way = "" if status in (None, 200) else "FRAMEPACK_PUBLIC_URL leads to something else"
    yield Finding(f"Public URL {settings.public_url}", found, way)


def _api_keys(settings: Settings) -> Iterator[Finding]:
    if settings.auth == "open":
        yield Finding("API keys", "none are asked for: FRAMEPACK_AUTH is open (loopback only)")
        return
    pepper = settings.key_pepper.get_secret_value().encode()
    way = "" if pepper else "set FRAMEPACK_KEY_PEPPER (openssl rand -hex 32) before making keys"
    yield Finding("Pepper of API keys", "set" if pepper else "empty", way)
    with contextlib.suppress(RedisError), connect(settings.redis_url, retries=0) as client:
        number = len(Access(client, pepper).list_keys())
        found = f"{number}" if number else "none yet: python -m service keys create TENANT"
        yield Finding("API keys", found)


def _gpu(settings: Settings) -> Iterator[Finding]:
    if settings.device == "cpu":
        yield Finding("GPU", "not used: FRAMEPACK_DEVICE is cpu")
        return
    nodes = sorted(path.name for path in Path("/dev").glob("nvidia[0-9]*"))
    import torch

    if torch.cuda.is_available():
        names = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
        wrong = [name for name in names if settings.expect_device.lower() not in name.lower()]
        way = f"FRAMEPACK_EXPECT_DEVICE is {settings.expect_device}" if wrong else ""
        yield Finding("GPU", ", ".join(names), way)
        return
    wanted = settings.device.startswith("cuda") or bool(nodes)
    way = "install the driver and a torch with CUDA, or hand the device to the container"
    yield Finding("GPU", "torch sees none", way if wanted else "")


def _weights(settings: Settings) -> Iterator[Finding]:
    for preset, folder in settings.weights.items():
        path = Path(folder)
        files = sorted(path.rglob("*.safetensors")) if path.is_dir() else []
        unreadable = [file for file in files if not os.access(file, os.R_OK)]
        if not files or unreadable:
            found = "cannot be read" if unreadable else "holds no .safetensors"
            way = "fill it as docs/weights.md says, readable for uid 10001"
            yield Finding(f"Weights of {preset}", f"{folder} {found}", way)
        else:
            size = sum(file.stat().st_size for file in files) / 2**30
            yield Finding(f"Weights of {preset}", f"{len(files)} files, {size:.1f} GiB")
        if preset in settings.codebooks and not (path / "codebook.safetensors").is_file():
            way = "fit one with `framepack codebook fit`, or take the preset out of it"
            yield Finding(f"Codebook of {preset}", "FRAMEPACK_CODEBOOKS names it, none is", way)
    for preset in settings.presets:
        if preset not in settings.weights and preset != "tiny":
            way = f'set FRAMEPACK_WEIGHTS={{"{preset}": "/folder"}}; workers fetch nothing by net'
            yield Finding(f"Weights of {preset}", "no folder is named", way)
