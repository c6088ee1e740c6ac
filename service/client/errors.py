"""What a call of the client may raise, and which answers mean what.

ClientError
+-- RequestRefused       the service understood and said no; carries its problem document
+-- ServiceUnavailable   no answer, or none that helps, after all tries
"""

from __future__ import annotations

import httpx
from pydantic import ValidationError

from service.contract.views import ProblemView

_AWAY = frozenset({429, 502, 503, 504})
"""Statuses after which the same request may succeed a little later."""


class ClientError(Exception):
    """Base of everything the client raises on purpose."""


class RequestRefused(ClientError):  # noqa: N818 - reads as what it is at the raise site
    """The service understood the request and refused it.

    Attributes:
        problem: What it said.
        repeated: Whether it had been sent before, without an answer.
    """

    def __init__(self, problem: ProblemView) -> None:
        reasons = [f"{error.pointer}: {error.detail}" for error in problem.errors or []]
        super().__init__("; ".join([problem.title, *(reasons or [problem.detail])]))
        self.problem = problem
        self.repeated = False


class ServiceUnavailable(ClientError):  # noqa: N818
    """The service gave no answer, or none that helps."""


class TryLater(Exception):  # noqa: N818
    """An answer after which the same request may be sent again. Never leaves this package.

    Attributes:
        final: What to raise when no try is left.
        after: Seconds the service asks to wait, if it says so.
    """

    def __init__(self, final: ClientError, after: float | None = None) -> None:
        super().__init__(str(final))
        self.final = final
        self.after = after


def checked(answer: httpx.Response) -> httpx.Response:
    """An answer that is no error.

    Raises:
        RequestRefused: It is a problem document that trying again does not change.
        TryLater: Any other error.
    """
    if answer.is_success or answer.is_redirect or answer.status_code == httpx.codes.NOT_MODIFIED:
        return answer
    try:
        problem = ProblemView.model_validate_json(answer.content)
    except ValidationError:
        raise TryLater(ServiceUnavailable(f"the answer was {answer.status_code}")) from None
    if answer.status_code not in _AWAY or not problem.retryable:
        raise RequestRefused(problem)
    final: ClientError = ServiceUnavailable(f"{problem.title}: {problem.detail}")
    if answer.status_code == httpx.codes.TOO_MANY_REQUESTS:
        final = RequestRefused(problem)
    asked = answer.headers.get("retry-after", "")
    raise TryLater(final, float(asked) if asked.isdecimal() else None)


def unreachable(error: httpx.TransportError) -> TryLater:
    """A connection that failed."""
    return TryLater(ServiceUnavailable(str(error) or type(error).__name__))
