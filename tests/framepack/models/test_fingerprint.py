from importlib.metadata import version

import torch

from framepack.models.fingerprint import Fingerprint, arithmetic, library_versions


def test_a_fingerprint_depends_on_content_not_on_order() -> None:
    one = Fingerprint.of({"a": "1", "b": "2"})
    assert one == Fingerprint.of({"b": "2", "a": "1"})
    assert one.short != Fingerprint.of({"a": "2", "b": "1"}).short
    assert len(one.short) == 16
    assert int(one.short, 16) >= 0


def test_threads_count_on_a_cpu() -> None:
    details = arithmetic(torch.device("cpu"))
    assert details["threads"] == str(torch.get_num_threads())
    assert details["device"].startswith("cpu ")


def test_versions_are_those_installed() -> None:
    assert library_versions(["av"]) == {"version.av": version("av")}
