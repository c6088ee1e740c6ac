"""A real Prometheus that scrapes processes on loopback, and is asked through its HTTP interface."""

from __future__ import annotations

import re
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import httpx
import yaml

from tests.support.fleet import wait_for
from tests.support.system import require_program
from tests.support.valkey import free_port

Series = tuple[dict[str, str], list[tuple[float, float]]]
"""Labels, and (time, value) pairs."""


class Prometheus:
    """One server.

    Args:
        folder: For its data.
        jobs: Ports on loopback, by the name of the job that they are scraped as.
        rules: Rule files to evaluate.
    """

    def __init__(
        self, folder: Path, jobs: Mapping[str, Sequence[int]], rules: Sequence[Path] = ()
    ) -> None:
        program = require_program("prometheus", "prometheus")
        config = folder / "prometheus.yml"
        config.write_text(yaml.safe_dump(_configuration(jobs, rules)))
        self._port = free_port()
        self._command = [
            program,
            f"--config.file={config}",
            f"--storage.tsdb.path={folder / 'tsdb'}",
            f"--web.listen-address=127.0.0.1:{self._port}",
            "--log.level=warn",
        ]
        self._log = folder / "prometheus.log"
        self._process: subprocess.Popen[bytes] | None = None
        self._began = time.time()
        self._http = httpx.Client(base_url=f"http://127.0.0.1:{self._port}", timeout=20)

    def __enter__(self) -> Prometheus:
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(self._command, stdout=log, stderr=log)
        wait_for(self._ready, 30.0)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        assert self._process is not None
        self._http.close()
        self._process.terminate()
        self._process.wait(20)

    def since_start(self, query: str) -> list[Series]:
        """What a query gave at each second since this server started."""
        answer = self._get(
            "query_range", query=query, start=str(self._began), end=str(time.time()), step="1"
        )
        return [
            (series["metric"], [(at, float(value)) for at, value in series["values"]])
            for series in answer["result"]
        ]

    def now(self, query: str) -> float:
        """What a query for one number gives; 0 where nothing is known yet."""
        found = self._get("query", query=query)["result"]
        assert len(found) <= 1, found
        return float(found[0]["value"][1]) if found else 0.0

    def targets_up(self) -> int:
        """How many targets answered the last scrape."""
        return int(self.now("sum(up)"))

    def names(self) -> set[str]:
        """Names of all that was scraped from this service, a histogram's three as one."""
        found = self._get("label/__name__/values")
        ours = {name for name in found if name.startswith("framepack_")}
        return {re.sub(r"_(bucket|count|sum|created)$", "", name) for name in ours}

    def rule_faults(self) -> list[str]:
        """Errors of the rules that were evaluated."""
        groups = self._get("rules")["groups"]
        rules = [rule for group in groups for rule in group["rules"]]
        assert rules
        return [f"{rule['name']}: {rule['lastError']}" for rule in rules if rule.get("lastError")]

    def _get(self, what: str, **parameters: str) -> Any:
        url = f"/api/v1/{what}"
        answer = self._http.post(url, data=parameters) if parameters else self._http.get(url)
        assert answer.status_code == 200, answer.text
        return answer.json()["data"]

    def _ready(self) -> bool:
        try:
            return self._http.get("/-/ready").status_code == 200
        except httpx.TransportError:
            return False


def _configuration(jobs: Mapping[str, Sequence[int]], rules: Sequence[Path]) -> dict[str, Any]:
    scrapes = [
        {"job_name": name, "static_configs": [{"targets": [f"127.0.0.1:{p}" for p in ports]}]}
        for name, ports in jobs.items()
    ]
    return {
        "global": {"scrape_interval": "1s", "evaluation_interval": "1s"},
        "rule_files": [str(path) for path in rules],
        "scrape_configs": scrapes,
    }
