"""The arithmetic of `bench service`, on spans as the workers send them."""

from opentelemetry.proto.common.v1.common_pb2 import AnyValue, ArrayValue, KeyValue
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from bench.service import DELIVER, RENDER, Shares, stretches, united


def span(
    number: int,
    name: str,
    began: float,
    ended: float,
    parent: int = 0,
    telling: tuple[float, ...] = (),
) -> Span:
    told = ArrayValue(values=[AnyValue(int_value=round(at * 1e9)) for at in telling])
    return Span(
        span_id=bytes([number]),
        parent_span_id=bytes([parent]) if parent else b"",
        name=name,
        start_time_unix_nano=round(began * 1e9),
        end_time_unix_nano=round(ended * 1e9),
        attributes=[
            KeyValue(key="framepack.steps.telling_ns", value=AnyValue(array_value=told)),
        ],
    )


SPANS = [
    ("framepack-gateway", span(99, "submit job", 0.0, 0.5)),
    (RENDER, span(1, "encode", 1.0, 2.0, parent=99)),
    (RENDER, span(2, "encode", 1.0, 1.5, parent=1)),
    (RENDER, span(3, "sample", 2.0, 6.0, parent=99)),
    (RENDER, span(4, "dit", 2.5, 5.5, parent=3)),
    (RENDER, span(5, "steps", 2.5, 5.0, parent=4, telling=(0.25, 0.5, 2.25, 2.5))),
    (DELIVER, span(6, "decode", 4.0, 8.0, parent=99)),
    (DELIVER, span(7, "vae", 4.5, 7.0, parent=6)),
    (DELIVER, span(8, "fetch", 4.5, 4.75, parent=7)),
]


def test_overlapping_intervals_count_once() -> None:
    assert united([(10.2, 10.5), (1, 3), (2, 4), (10, 11)]) == [(1, 4), (10, 11)]
    assert united([(2, 1)]) == []


def test_only_what_models_compute_in_is_inside() -> None:
    """Encoders 0.5, steps and VAE from 2.5 to 7; reports and a fetch in them are outside.

    The first report while nothing else computed, the second beside the VAE, the fetch beside steps.
    """
    shares = Shares(list(stretches(SPANS)))
    assert round(shares.outside(0.0, 10.0), 6) == 10 - (0.5 + 4.5) + 0.25
    assert shares.lane(RENDER) == (1.0, 6.0)
    assert round(shares.outside(1.0, 6.0, [RENDER]), 6) == 5 - (0.5 + 2.5) + 0.5
    assert shares.totals() == {
        "deliver fetch": 0.25,
        "deliver task decode": 4.0,
        "deliver vae": 2.5,
        "render dit": 3.0,
        "render encode": 0.5,
        "render steps": 2.0,
        "render task encode": 1.0,
        "render task sample": 4.0,
        "render telling": 0.5,
    }
