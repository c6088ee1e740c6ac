"""The client's reader of event streams, against the rules of WHATWG HTML §9.2.6."""

from service.client.sse import ServerSentEvent, parse_events


def parsed(text: str) -> list[ServerSentEvent]:
    return list(parse_events(text.split("\n")))


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
