"""A real S3-compatible store from wheels: OpenStack Swift on one node, every server on loopback.

One replica of everything, one folder as the only disk. The S3 interface is Swift's own s3api,
which, unlike mocks, checks signatures, expiry and checksums.
"""

from __future__ import annotations

import getpass
import os
import socket
import subprocess
import sys
import time
from pathlib import Path
from types import TracebackType

from tests.support.valkey import free_port

ACCESS_KEY = "test:tester"
SECRET_KEY = "testing"
REGION = "us-east-1"
PIPELINE = (
    "catch_errors listing_formats bulk s3api tempauth copy slo dlo symlink versioned_writes "
    "proxy-server"
)
FILTERS = {
    "s3api": {"location": REGION, "s3_acl": "false", "check_bucket_owner": "false"},
    "tempauth": {"user_test_tester": f"{SECRET_KEY} .admin"},
    "slo": {"allow_async_delete": "false"},
    "versioned_writes": {"allow_object_versioning": "true"},
}
START_SECONDS = 60


class Swift:
    """Four server processes below one folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.ports = {kind: free_port() for kind in ("proxy", "account", "container", "object")}
        self._processes: list[subprocess.Popen[bytes]] = []

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.ports['proxy']}"

    def __enter__(self) -> Swift:
        (self.folder / "disk" / "d1").mkdir(parents=True)
        self._write("swift", {"swift-hash": {"swift_hash_path_suffix": "tests"}})
        for kind in ("account", "container", "object"):
            self._write_storage_server(kind)
            self._build_ring(kind)
        self._write_proxy()
        for kind in self.ports:
            self._start(kind)
        self._wait()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for process in self._processes:
            process.kill()
        for process in self._processes:
            process.wait()

    def _write(self, name: str, sections: dict[str, dict[str, str]]) -> Path:
        lines = []
        for section, options in sections.items():
            lines += [f"[{section}]", *(f"{key} = {value}" for key, value in options.items()), ""]
        path = self.folder / f"{name}.conf"
        path.write_text("\n".join(lines))
        return path

    def _default(self, kind: str) -> dict[str, str]:
        return {
            "bind_ip": "127.0.0.1",
            "bind_port": str(self.ports[kind]),
            "workers": "0",
            "swift_dir": str(self.folder),
            "user": getpass.getuser(),
            "log_level": "WARNING",
            # Swift logs to the syslog socket unless it is told of another address.
            "log_address": str(self.folder / "no-syslog"),
        }

    def _write_storage_server(self, kind: str) -> None:
        disk = {
            "devices": str(self.folder / "disk"),
            "mount_check": "false",
            "disable_fallocate": "true",
            "recon_cache_path": str(self.folder),
        }
        self._write(
            kind,
            {
                "DEFAULT": self._default(kind) | disk,
                "pipeline:main": {"pipeline": f"{kind}-server"},
                f"app:{kind}-server": {"use": f"egg:swift#{kind}"},
            },
        )

    def _write_proxy(self) -> None:
        app = {
            "use": "egg:swift#proxy",
            "allow_account_management": "true",
            "account_autocreate": "true",
        }
        filters = {
            f"filter:{name}": {"use": f"egg:swift#{name}"} | FILTERS.get(name, {})
            for name in PIPELINE.split()[:-1]
        }
        pipeline = {"pipeline:main": {"pipeline": PIPELINE}, "app:proxy-server": app}
        self._write("proxy", {"DEFAULT": self._default("proxy"), **pipeline, **filters})

    def _build_ring(self, kind: str) -> None:
        builder = str(self.folder / f"{kind}.builder")
        device = f"r1z1-127.0.0.1:{self.ports[kind]}/d1"
        for command in (["create", "2", "1", "1"], ["add", device, "1"], ["rebalance"]):
            # Exit status 1 is a warning: one device cannot be spread.
            done = subprocess.run(
                [_script("swift-ring-builder"), builder, *command],
                check=False,
                capture_output=True,
                cwd=self.folder,
            )
            assert done.returncode <= 1, done.stdout

    def _start(self, kind: str) -> None:
        log = (self.folder / f"{kind}.out").open("wb")
        with log:
            self._processes.append(
                subprocess.Popen(
                    [_script(f"swift-{kind}-server"), str(self.folder / f"{kind}.conf")],
                    stdout=log,
                    stderr=log,
                    env={**os.environ, "PYTHONWARNINGS": "ignore"},
                )
            )

    def _wait(self) -> None:
        deadline = time.monotonic() + START_SECONDS
        for kind, port in self.ports.items():
            while not _listens(port):
                if time.monotonic() > deadline:
                    raise RuntimeError((self.folder / f"{kind}.out").read_text()[-2000:])
                time.sleep(0.1)


def _script(name: str) -> str:
    return str(Path(sys.executable).with_name(name))


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0
