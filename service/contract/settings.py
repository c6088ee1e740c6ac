"""Settings of a deployment, from the environment (``FRAMEPACK_*``). Only entry points read them."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, IPvAnyNetwork, SecretStr, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from service.contract.limits import Limits
from service.contract.outbox import RETRY_SECONDS
from service.contract.record import DAY_MS, RecordPolicy
from service.contract.storage import LinkSigning

_ORIGIN = re.compile(r"[a-z][a-z0-9+.-]*://([a-z0-9._-]+|\[[0-9a-f:.]+\])(:[0-9]{1,5})?")
_USUAL_PORTS = {"http": ":80", "https": ":443"}


def _as_browsers_write_it(origin: str) -> str:
    """An origin is compared letter by letter, so what no browser sends would never match."""
    usual = _USUAL_PORTS.get(origin.partition("://")[0])
    if not _ORIGIN.fullmatch(origin) or (usual and origin.endswith(usual)):
        raise ValueError(
            "an origin is scheme://host[:port] in lower case, without a path, a final slash, a "
            "usual port or *, such as https://app.example.com; several have commas between them"
        )
    return origin


Origin = Annotated[str, AfterValidator(_as_browsers_write_it)]


class Settings(BaseSettings):
    """What changes with the deployment, and nothing else.

    Attributes:
        redis_url: The server of the job record.
        storage_url: ``file:///folder``, ``s3://bucket/prefix?endpoint=https://...&region=...``;
            ``&public=https://...`` where clients reach the store at another address.
        public_url: Where clients reach the gateway.
        signing_secret: Signs links to files of a ``file://`` storage.
        auth: ``keys``: requests need an API key (``python -m service keys create TENANT``).
            ``open``: for development; everybody is one tenant, and the gateway refuses to listen
            beyond loopback.
        allowed_origins: Other origins whose pages may use the gateway from a browser, as
            ``scheme://host[:port]`` with commas; empty: only its own page.
        key_pepper: Mixed into the hashes of API keys, so that who can write to Redis still cannot
            make one. Changing it makes all keys worthless.
        presets: Presets this deployment serves, with commas.
        weights: Local folders by preset, as JSON.
        codebooks: Presets, with commas, in whose folder of `weights` lies a codebook.safetensors;
            others refuse schedules with +D. `tiny` without a folder of its own needs no mention.
        accept_unsafe_redis: Run on a server that may lose acknowledged jobs.
        lease_seconds: How long a worker may be silent before its task is given to another.
        max_crashes: Consecutive crashes on one task that end a job.
        backoff_seconds: Pause after the first, second, ... crash.
        max_jobs: Jobs a tenant may have that have not ended; 0 is no limit, here and below.
            ``python -m service keys limits`` gives a tenant limits of its own.
        max_submissions: Jobs a tenant may submit a minute.
        max_gpu_seconds: Estimated seconds of one GPU that a tenant's jobs may still need.
        max_open_jobs: Jobs of all tenants that have not ended, before the service is full.
        webhook_networks: Private networks that webhooks may reach, as CIDR with commas, and without
            TLS; empty: only public addresses, by https.
        webhook_retry_seconds: Pauses before a webhook's second, third, ... try.
        render_ahead: Sections sampled before the first of them must be delivered.
        retention_days: How long an ended job is kept with its files, unless it says so itself.
        sweep_hours: How old stored objects must be that no job refers to before they are deleted,
            and the longest that a submission may take to store its picture.
        hard_maximum_seconds: The longest a task may take.
        device: ``cpu``, ``cuda``, ``cuda:1``, or ``auto``.
        expect_device: Part of the device's name that a worker must find at its start.
        torch_threads: Threads of a worker's torch; None leaves torch's choice.
        metrics_port: Where the metrics are shown. A gateway without one shows them at ``/metrics``
            of its own port; a worker without one shows none; the deliver worker that a supervisor
            starts takes the next port.
        metrics_host: Address on which the metrics are shown; they are for nobody outside.
        log_format: How every process logs to standard error: ``text`` for people, ``json`` for a
            collector, with the fields that docs/operate.md lists. Images set ``json``.
        log_level: What is logged: from this level on.
        traces_endpoint: Where traces are sent, ``http://host:4318/v1/traces``; empty: nowhere.
        crash_point: For fault tests: the point at which a worker kills itself, `worker.faults`.
    """

    model_config = SettingsConfigDict(env_prefix="FRAMEPACK_", extra="ignore", frozen=True)

    redis_url: str = "redis://127.0.0.1:6379/0"
    storage_url: str = "file:///var/lib/framepack"
    public_url: str = "http://127.0.0.1:8000"
    signing_secret: SecretStr = SecretStr("")
    auth: Literal["keys", "open"] = "keys"
    allowed_origins: Annotated[tuple[Origin, ...], NoDecode] = ()
    key_pepper: SecretStr = SecretStr("")
    presets: Annotated[tuple[str, ...], NoDecode] = ("tiny",)
    weights: dict[str, str] = {}
    codebooks: Annotated[tuple[str, ...], NoDecode] = ()
    accept_unsafe_redis: bool = False
    lease_seconds: Annotated[float, Field(ge=0.5)] = 30.0
    max_crashes: Annotated[int, Field(ge=1)] = 3
    backoff_seconds: Annotated[tuple[float, ...], NoDecode] = (0.0, 30.0, 120.0)
    max_jobs: Annotated[int, Field(ge=0)] = 100
    max_submissions: Annotated[int, Field(ge=0)] = 60
    max_gpu_seconds: Annotated[int, Field(ge=0)] = 0
    max_open_jobs: Annotated[int, Field(ge=0)] = 10_000
    webhook_networks: Annotated[tuple[IPvAnyNetwork, ...], NoDecode] = ()
    webhook_retry_seconds: Annotated[tuple[float, ...], NoDecode] = RETRY_SECONDS
    render_ahead: Annotated[int, Field(ge=1)] = 4
    retention_days: Annotated[float, Field(gt=0)] = 7.0
    sweep_hours: Annotated[float, Field(gt=0)] = 24.0
    hard_maximum_seconds: Annotated[int, Field(ge=1)] = 1800
    device: str = "auto"
    expect_device: str = ""
    torch_threads: Annotated[int, Field(ge=1)] | None = None
    metrics_port: Annotated[int, Field(ge=0, le=65535)] | None = None
    metrics_host: str = "127.0.0.1"
    log_format: Literal["text", "json"] = "text"
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"
    traces_endpoint: str = ""
    crash_point: str = ""

    def link_signing(self) -> LinkSigning:
        """What the gateway and the workers open a storage with."""
        return LinkSigning(self.public_url, self.signing_secret.get_secret_value().encode())

    @field_validator(
        "presets",
        "codebooks",
        "allowed_origins",
        "backoff_seconds",
        "webhook_networks",
        "webhook_retry_seconds",
        mode="before",
    )
    @classmethod
    def _with_commas(cls, value: Any) -> Any:
        return tuple(filter(None, value.split(","))) if isinstance(value, str) else value

    def tenant_limits(self) -> Limits:
        """What a tenant may; in a service that is open there is nobody to share with."""
        if self.auth == "open":
            return Limits()
        return Limits(self.max_submissions, self.max_jobs, self.max_gpu_seconds)

    def record_policy(self) -> RecordPolicy:
        """What the record's transitions go by."""
        return RecordPolicy(
            lease_ms=int(1000 * self.lease_seconds),
            max_crashes=self.max_crashes,
            backoff_ms=tuple(int(1000 * seconds) for seconds in self.backoff_seconds),
            render_ahead=self.render_ahead,
            retention_ms=int(DAY_MS * self.retention_days),
            limits=self.tenant_limits(),
            open_jobs=self.max_open_jobs,
        )
