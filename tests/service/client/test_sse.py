"""The client's reader of event streams, against the rules of WHATWG HTML §9.2.6."""

from service.client.sse import ServerSentEvent, parse_events


def parsed(text: str) -> list[ServerSentEvent]:
    """The events of a text, the same however it is cut into pieces."""
    data = text.encode()
    whole = list(parse_events([data]))
    for size in (1, 2, 3):
        pieces = [data[start : start + size] for start in range(0, len(data), size)]
        assert list(parse_events(pieces)) == whole
    return whole


def test_all_three_line_ends_and_no_others() -> None:
    expected = [ServerSentEvent("a", "x\u2028y\u0085\u00e9", None)]
    for end in ("\n", "\r\n", "\r"):
        text = f"event: a{end}data: x\u2028y\u0085\u00e9{end}{end}"
        # A lone carriage return at the end may be the first half of a pair.
        assert parsed(text + ":") == expected


def test_an_event_has_name_data_and_id() -> None:
    assert parsed('id: 7\nevent: queued\ndata: {"a": 1}\n\n') == [
        ServerSentEvent("queued", '{"a": 1}', "7")
    ]


def test_comments_and_unknown_fields_are_ignored() -> None:
    assert parsed(": alive\n\nretry: 2000\nsomething\ndata: x\n\n") == [
        ServerSentEvent("message", "x", None)
    ]


def test_lines_of_data_are_joined_and_one_space_is_dropped() -> None:
    assert parsed("data:a\ndata:  b\ndata\n\n") == [ServerSentEvent("message", "a\n b\n", None)]


def test_an_id_belongs_to_its_event_only() -> None:
    first, second = parsed("id: 1\ndata: x\n\ndata: y\n\n")
    assert (first.id, second.id) == ("1", None)


def test_an_event_without_data_or_without_an_end_is_dropped() -> None:
    assert parsed("event: queued\n\ndata: half") == []
