"""What answers at a tracker's address: servers, none, busy ones, nobody, something else."""

import json
import socket
import struct
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from codesign.backend.rpc_tracker import ServerCount, count_servers, split_address, wait_for_server
from codesign.errors import DeviceError

MAGIC = struct.pack("<i", 0x2F271)
Summary = dict[str, object]


def _summary(free: int, keys: tuple[str, ...] = ("edge",)) -> Summary:
    servers = [{"key": f"server:{key}", "addr": ["127.0.0.1", 9]} for key in keys]
    return {"queue_info": {"edge": {"free": free, "pending": 0}}, "server_info": servers}


@contextmanager
def _tracker(*answers: bytes | Summary) -> Iterator[str]:
    """Greets and answers once for each connection, the last answer again and again."""
    listener = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        given = list(answers)
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            with connection:
                answer = given.pop(0) if len(given) > 1 else given[0]
                if isinstance(answer, bytes):
                    connection.sendall(answer)
                    connection.recv(4096)
                    continue
                connection.sendall(connection.recv(4))
                (size,) = struct.unpack("<i", connection.recv(4))
                assert json.loads(connection.recv(size)) == [6]
                text = json.dumps([0, answer]).encode()
                connection.sendall(struct.pack("<i", len(text)) + text)

    threading.Thread(target=serve, daemon=True).start()
    try:
        yield f"127.0.0.1:{listener.getsockname()[1]}"
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()


def test_servers_are_counted_by_kind() -> None:
    with _tracker(_summary(1, ("edge", "edge", "phone"))) as address:
        assert count_servers(address, "edge", 5) == ServerCount(2, 1, ("phone",))
        assert count_servers(address, "phone", 5) == ServerCount(1, 0, ("edge",))
        wait_for_server(address, "edge", 5)


def test_no_server_names_those_that_there_are_and_how_to_start_one() -> None:
    with _tracker(_summary(0, ("phone",))) as address, pytest.raises(DeviceError) as caught:
        wait_for_server(address, "edge", 0.1)
    assert "no server with key 'edge'; it has phone" in str(caught.value)
    assert f"rpc_server --tracker {address} --key edge" in str(caught.value)


def test_busy_servers_are_waited_for_as_long_as_allowed() -> None:
    with _tracker(_summary(0), _summary(0), _summary(1)) as address:
        wait_for_server(address, "edge", 30)
    start = time.monotonic()
    with (
        _tracker(_summary(0)) as address,
        pytest.raises(DeviceError, match=r"all 1 servers .* busy or hang for 0\.5 s"),
    ):
        wait_for_server(address, "edge", 0.5)
    assert time.monotonic() - start < 20


def test_a_server_that_comes_back_at_once_is_found() -> None:
    with _tracker(_summary(0, ()), _summary(1)) as address:
        wait_for_server(address, "edge", 30)


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", "is no RPC tracker"),
        (b"", "no RPC tracker answers"),
        (MAGIC + struct.pack("<i", 7) + b"nonsens", "is no RPC tracker"),
        (MAGIC + struct.pack("<i", 2) + b"{}", "is no RPC tracker"),
        (MAGIC + struct.pack("<i", 1 << 30) + b"[", "no RPC tracker answers"),
    ],
)
def test_something_else_answers(answer: bytes, message: str) -> None:
    with _tracker(answer) as address, pytest.raises(DeviceError, match=message):
        count_servers(address, "edge", 0.5)


def test_nobody_answers() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        start = time.monotonic()
        with pytest.raises(DeviceError, match="no RPC tracker answers"):
            count_servers(f"127.0.0.1:{port}", "edge", 0.3)
        assert time.monotonic() - start < 20
    with pytest.raises(DeviceError, match=r"no RPC tracker answers at .* start one: python -m tvm\.exec\.rpc_tracker"):
        count_servers(f"127.0.0.1:{port}", "edge", 5)
    with pytest.raises(DeviceError, match=r"no RPC tracker answers at host\.invalid:9190"):
        count_servers("host.invalid:9190", "edge", 5)
    with pytest.raises(DeviceError, match="no RPC tracker answers"):
        count_servers("127.0.0.1:99999", "edge", 5)


def test_addresses() -> None:
    assert split_address("device.local:9190") == ("device.local", 9190)
