"""Everything framepack raises on purpose.

    FramepackError
    +-- InvalidRequest          a value a user chose cannot be served; names the field
    |   +-- ScheduleSyntaxError a packing schedule's name does not parse; points at the character
    +-- WeightsError            a checkpoint is missing, incomplete or of another layout
    +-- MediaError              a picture or a video could not be read or written

The edges (command line, HTTP) translate these; nothing inside catches them to go on.
"""


class FramepackError(Exception):
    """Base of all errors raised on purpose by this package."""


class InvalidRequest(FramepackError):  # noqa: N818 - reads as what it is at the raise site
    """A value a user chose cannot be served.

    Attributes:
        field: Name of the request field, as the HTTP API and the command line spell it.
        detail: One sentence: what is wrong, the limit, and the way out.
    """

    def __init__(self, field: str, detail: str) -> None:
        super().__init__(f"{field}: {detail}")
        self.field = field
        self.detail = detail


class ScheduleSyntaxError(InvalidRequest):
    """A packing schedule's name does not parse.

    Attributes:
        name: The name as given.
        position: Index of the first character that cannot stand where it does.
        expected: What could stand there.
    """

    def __init__(self, name: str, position: int, expected: str) -> None:
        self.name = name
        self.position = position
        self.expected = expected
        found = f"{name[position]!r}" if position < len(name) else "the end"
        super().__init__(
            "schedule",
            f"at character {position + 1} of {name!r}: found {found}, expected {expected}",
        )

    def pointer(self) -> str:
        """The name with a caret under the offending character, for a terminal."""
        return f"{self.name}\n{' ' * self.position}^"


class WeightsError(FramepackError):
    """A checkpoint is missing, incomplete or of another layout than the preset's."""


class MediaError(FramepackError):
    """A picture or a video could not be read or written."""
