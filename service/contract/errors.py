"""Errors of the contract, and the problem document they become (RFC 9457).

ContractError
+-- JobNotFound          no such job, or not this tenant's
+-- JobFinished          the job is in a terminal state, which never changes
+-- JobConflict          the job is in a state in which this cannot be done
+-- IdempotencyMismatch  the idempotency key came with another request before
+-- InvalidTenant        a tenant's name that cannot be used
+-- TooManyKeys          the tenant has as many API keys as it may have
+-- KeyNotFound          no such API key
+-- LeaseLost            another worker may own the task now: stop, write nothing more
+-- RecordUnreadable     the stored job is damaged, or of a form this process does not know
+-- StorageError         the object store failed
    +-- ObjectNotFound   no object under that key
"""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, computed_field


class ContractError(Exception):
    """Base of all errors raised on purpose by the contract."""


class JobNotFound(ContractError):  # noqa: N818 - reads as what it is at the raise site
    """No such job, or not this tenant's."""


class JobFinished(ContractError):  # noqa: N818
    """The job is in a terminal state, which never changes."""

    def __init__(self, job_id: str, status: str) -> None:
        super().__init__(f"job {job_id} is already {status}")
        self.status = status


class JobConflict(ContractError):  # noqa: N818
    """The job is in a state in which this cannot be done."""


class JobExpired(ContractError):  # noqa: N818
    """The job ended and was kept as long as it should be."""


class UploadTooSlow(ContractError):  # noqa: N818
    """A submission's picture was swept before its job was written; nothing was accepted."""


class IdempotencyMismatch(ContractError):  # noqa: N818
    """The idempotency key came with another request before."""


class InvalidTenant(ContractError):  # noqa: N818
    """A tenant's name that cannot be used."""

    def __init__(self, tenant: str) -> None:
        super().__init__(
            f"a tenant's name is 1 to 64 letters, digits, '.', '_' or '-', and begins with a "
            f"letter or digit; {tenant[:80]!r} is not"
        )


class TooManyKeys(ContractError):  # noqa: N818
    """The tenant has as many API keys as it may have."""

    def __init__(self, tenant: str) -> None:
        super().__init__(f"{tenant} has two keys already; revoke one first (keys list {tenant})")


class KeyNotFound(ContractError):  # noqa: N818
    """No such API key."""

    def __init__(self, key_id: str) -> None:
        super().__init__(f"there is no key {key_id[:80]!r}; `keys list` shows all ids")


class LeaseLost(ContractError):  # noqa: N818
    """Another worker may own the task now: stop, and write nothing more."""


class RecordUnreadable(ContractError):  # noqa: N818
    """The stored job is damaged, or of a form this process does not know."""


class StorageError(ContractError):
    """The object store failed."""


class ObjectNotFound(StorageError):  # noqa: N818
    """No object under that key."""


class Problem(BaseModel):
    """A problem document (RFC 9457) for what went wrong with a job or a request.

    Attributes:
        code: Stable, machine-readable, lower_case_with_underscores.
        title: The same for every occurrence of a code.
        detail: One sentence about this occurrence and the way out; never echoes input.
        retryable: Whether the same request may succeed later.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    code: str
    title: str
    detail: str
    retryable: bool = False

    @computed_field  # type: ignore[prop-decorator]
    @property
    def type(self) -> str:
        """URI reference that answers with the meaning of the code."""
        return f"/problems/{self.code}"
