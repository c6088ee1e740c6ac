"""A webhook's URL is a stranger's wish: where it may lead, however it is written."""

from __future__ import annotations

import ssl
import subprocess
from collections.abc import Callable
from ipaddress import ip_address, ip_network
from pathlib import Path

import anyio
import anyio.to_thread
import httpcore
import pytest

from framepack.errors import InvalidRequest
from service.api.webhooks.guard import Forbidden, Guard
from service.api.webhooks.poster import Poster, require_reachable
from tests.support.receiver import Endless, Receiver

LOOPBACK = (ip_network("127.0.0.0/8"),)

HOSTILE = [
    "127.0.0.1",
    "127.9.9.9",
    "0.0.0.0",
    "10.0.0.1",
    "172.16.5.5",
    "192.168.1.1",
    "169.254.169.254",
    "100.64.0.1",
    "192.0.0.8",
    "198.18.0.1",
    "203.0.113.7",
    "224.0.0.1",
    "240.0.0.1",
    "255.255.255.255",
    "::",
    "::1",
    "fe80::1",
    "fc00::1",
    "ff02::1",
    "2001:db8::1",
    "::ffff:127.0.0.1",
    "::ffff:169.254.169.254",
    "::127.0.0.1",
    "64:ff9b::7f00:1",
    "64:ff9b:1::a00:1",
    "2002:7f00:1::",
    "2002:a9fe:a9fe::1",
    "2001:0:4136:e378:8000:63bf:80ff:fffe",
]
PUBLIC = ["1.1.1.1", "9.9.9.9", "2606:4700:4700::1111", "64:ff9b::101:101", "::ffff:1.1.1.1"]


@pytest.mark.parametrize("address", HOSTILE)
def test_what_is_not_public_is_refused(address: str) -> None:
    assert not Guard((), public=True).allows(ip_address(address))


@pytest.mark.parametrize("address", PUBLIC)
def test_what_is_public_is_allowed_unless_only_named_networks_are(address: str) -> None:
    assert Guard((), public=True).allows(ip_address(address))
    assert not Guard(LOOPBACK, public=False).allows(ip_address(address))


def test_a_named_network_allows_itself_and_nothing_beside_it() -> None:
    guard = Guard((ip_network("10.1.0.0/16"),), public=True)
    assert guard.allows(ip_address("10.1.2.3"))
    assert not guard.allows(ip_address("10.2.0.1"))
    assert guard.allows(ip_address("::ffff:10.1.2.3"))
    assert not guard.allows(ip_address("2002:0a01:0203::1"))


@pytest.mark.parametrize(
    "host",
    ["127.0.0.1", "localhost", "2130706433", "0x7f000001", "0177.0.0.1", "127.1", "[::1]", "0"],
)
def test_no_way_to_write_loopback_reaches_a_receiver_there(host: str) -> None:
    """With the system's own resolver, and somebody who listens."""
    with Receiver() as receiver:

        async def attempt(public: bool) -> None:
            pool = httpcore.AsyncConnectionPool(network_backend=Guard((), public=public))
            async with pool:
                await pool.request("POST", f"http://{host}:{receiver.port}/hook")

        for public in (True, False):
            with pytest.raises((Forbidden, httpcore.ConnectError)):
                anyio.run(attempt, public)
        assert receiver.received == []


@pytest.fixture
def answers(monkeypatch: pytest.MonkeyPatch) -> Callable[[list[list[str]]], list[int]]:
    """A name server of the test's own: what a name resolves to, at each time it is asked."""

    def install(replies: list[list[str]]) -> list[int]:
        asked = [0]

        async def getaddrinfo(host: str, port: int, **_: object) -> list[object]:
            found = replies[min(asked[0], len(replies) - 1)]
            asked[0] += 1
            return [(2, 1, 6, "", (address, port)) for address in found]

        monkeypatch.setattr("anyio.getaddrinfo", getaddrinfo)
        return asked

    return install


def connect(guard: Guard, port: int) -> None:
    async def go() -> None:
        stream = await guard.connect_tcp("name.example", port, timeout=5)
        await stream.aclose()

    anyio.run(go)


def test_one_forbidden_address_among_allowed_ones_is_enough(
    answers: Callable[[list[list[str]]], list[int]],
) -> None:
    answers([["1.1.1.1", "127.0.0.1"]])
    with Receiver() as receiver, pytest.raises(Forbidden):
        connect(Guard((), public=True), receiver.port)


def test_a_name_is_asked_for_once_so_another_answer_later_gains_nothing(
    answers: Callable[[list[list[str]]], list[int]],
) -> None:
    # Were it resolved again to connect, nobody would listen there, and the connection would fail.
    asked = answers([["127.0.0.1"], ["127.0.0.99"]])
    with Receiver() as receiver:
        connect(Guard(LOOPBACK, public=False), receiver.port)
    assert asked == [1]


def test_the_next_address_is_tried_when_one_does_not_answer(
    answers: Callable[[list[list[str]]], list[int]],
) -> None:
    answers([["127.0.0.99", "127.0.0.1"]])
    with Receiver() as receiver:
        connect(Guard(LOOPBACK, public=False), receiver.port)


@pytest.fixture
def certificate(tmp_path: Path) -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """A server's and a client's side of a certificate for `localhost`."""
    key, file = tmp_path / "key.pem", tmp_path / "cert.pem"
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"]
    command += ["-nodes", "-days", "2", "-subj", "/CN=localhost", "-keyout", str(key)]
    command += ["-addext", "subjectAltName=DNS:localhost", "-out", str(file)]
    subprocess.run(command, check=True, capture_output=True)
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(file, key)
    return server, ssl.create_default_context(cafile=str(file))


def test_tls_checks_the_name_though_the_address_is_chosen_here(
    certificate: tuple[ssl.SSLContext, ssl.SSLContext],
) -> None:
    server, client = certificate
    with Receiver(server) as receiver:

        async def post(host: str) -> int:
            poster = Poster((*LOOPBACK, ip_network("::1/128")), client)
            try:
                return await poster.post(f"https://{host}:{receiver.port}/hook", {"a": "b"}, b"x")
            finally:
                await poster.close()

        assert anyio.run(post, "localhost") == 200
        with pytest.raises(httpcore.ConnectError, match="certificate"):
            anyio.run(post, "127.0.0.1")
        assert [each.body for each in receiver.received] == [b"x"]


def test_a_receiver_that_is_silent_is_given_up_and_the_next_is_served() -> None:
    with Receiver() as silent, Receiver() as quick:
        silent.answers.append(60.0)

        async def post() -> int:
            poster = Poster(LOOPBACK, seconds=0.3)
            try:
                with pytest.raises(TimeoutError):
                    await poster.post(silent.url, {}, b"x")
                return await poster.post(quick.url, {}, b"x")
            finally:
                await poster.close()

        assert anyio.run(post) == 200


def test_of_an_answer_only_the_status_is_read() -> None:
    """An endless body is cut off; a head without an end is no answer."""
    chunk = b"10000\r\n" + b"x" * 65536 + b"\r\n"
    head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"

    async def post() -> None:
        poster = Poster(LOOPBACK, seconds=10)
        try:
            with Endless(head, chunk) as receiver:
                assert await poster.post(receiver.url, {}, b"x") == 200
                await anyio.to_thread.run_sync(receiver.cut_off.wait, 5)
                assert receiver.cut_off.is_set()
            with (
                Endless(b"HTTP/1.1 200 OK\r\n", b"X-More: " + b"x" * 1000 + b"\r\n") as receiver,
                pytest.raises(httpcore.RemoteProtocolError),
            ):
                await poster.post(receiver.url, {}, b"x")
        finally:
            await poster.close()

    anyio.run(post)


@pytest.mark.parametrize(
    ("url", "networks", "allowed"),
    [
        ("https://example.org/x", (), True),
        ("http://example.org/x", (), False),
        ("https://127.0.0.1/x", (), False),
        ("https://[::1]/x", (), False),
        ("https://1.1.1.1/x", (), True),
        ("http://127.0.0.1/x", LOOPBACK, True),
        ("http://10.0.0.1/x", LOOPBACK, False),
        ("http://1.1.1.1/x", LOOPBACK, False),
        ("https://1.1.1.1/x", LOOPBACK, True),
    ],
)
def test_what_could_never_be_sent_is_refused_at_once(
    url: str, networks: tuple[object, ...], allowed: bool
) -> None:
    if allowed:
        require_reachable(url, networks, "url")  # type: ignore[arg-type]
    else:
        with pytest.raises(InvalidRequest):
            require_reachable(url, networks, "url")  # type: ignore[arg-type]
