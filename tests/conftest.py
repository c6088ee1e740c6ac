"""Fixtures shared by the whole suite: real servers on loopback, started when a test first asks."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
from redis import Redis

from tests.support.shapes import check_shapes_of

check_shapes_of("framepack")  # before anything imports it

from service.contract.connections import connect  # noqa: E402
from tests.support.swift import Swift  # noqa: E402
from tests.support.valkey import Valkey  # noqa: E402

# Before anything imports torch, here or in a child process: threads that spin while they wait cost
# a factor of three to six when processes share two cores, which the tests of the service do.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "passive")


@pytest.fixture(scope="session")
def valkey(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Valkey]:
    """A Valkey server that keeps what it acknowledged, for the whole session."""
    with Valkey(tmp_path_factory.mktemp("valkey")) as server:
        yield server


@pytest.fixture
def redis_url(valkey: Valkey) -> str:
    """URL of the server, emptied for this test."""
    valkey.empty()
    return valkey.url


@pytest.fixture
def redis(redis_url: str) -> Iterator[Redis]:
    """A client of the emptied server."""
    with connect(redis_url) as client:
        yield client


@pytest.fixture(scope="session")
def swift(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Swift]:
    """A real S3-compatible store, for the whole session."""
    with Swift(tmp_path_factory.mktemp("swift")) as server:
        yield server
