"""Asks a TVM RPC tracker which servers there are, without ever waiting longer than a limit.

TVM's own client waits in `request()` until a server appears, and for a minute for a tracker that is not there; so the
tracker's summary is looked at first. On the wire each message is JSON with its length before it, as in `tvm.rpc.base`.
"""

import json
import socket
import struct
import time
from dataclasses import dataclass

from codesign.errors import DeviceError

_MAGIC = struct.pack("<i", 0x2F271)
_SUMMARY, _SUCCESS = 6, 0
_POLL_S, _GRACE_S = 0.2, 2.0
"""A server that lost its tracker, or a client in the middle of a greeting, is back in less than the latter."""


@dataclass(frozen=True)
class ServerCount:
    """Servers of one kind that a tracker knows.

    Attributes:
        total: Registered.
        free: Not in use.
        others: Other kinds that it has servers of.
    """

    total: int
    free: int
    others: tuple[str, ...]


def split_address(address: str) -> tuple[str, int]:
    """Host and port.

    Args:
        address: `host:port`.

    Returns:
        The two.
    """
    host, _, port = address.rpartition(":")
    return host, int(port)


def wait_for_server(tracker: str, key: str, timeout_s: float) -> None:
    """Waits until a server is free.

    Args:
        tracker: Address of the tracker.
        key: Kind of the server.
        timeout_s: Seconds to wait for servers that others use.

    Raises:
        DeviceError: There is no tracker, no server of this kind, or none became free in time.
    """
    began = time.monotonic()
    while True:
        count = count_servers(tracker, key, max(_GRACE_S, began + timeout_s - time.monotonic()))
        waited_s = time.monotonic() - began
        if count.free:
            return
        if count.total == 0 and waited_s > min(_GRACE_S, timeout_s):
            known = f"; it has {', '.join(count.others)}" if count.others else ""
            raise DeviceError(
                f"the RPC tracker at {tracker} has no server with key {key!r}{known}; start one on the device: "
                f"python -m tvm.exec.rpc_server --tracker {tracker} --key {key}"
            )
        if waited_s > timeout_s:
            raise DeviceError(
                f"all {count.total} servers with key {key!r} at the RPC tracker {tracker} are busy or hang for "
                f"{timeout_s:g} s; wait for them, restart them, or raise rpc.queue_timeout_s"
            )
        time.sleep(_POLL_S)


def count_servers(tracker: str, key: str, timeout_s: float) -> ServerCount:
    """Asks a tracker for its summary.

    Args:
        tracker: Address of the tracker.
        key: Kind of the server.
        timeout_s: Seconds for each step.

    Returns:
        How many servers of this kind there are.

    Raises:
        DeviceError: Nothing answers there, or it is no tracker.
    """
    try:
        with socket.create_connection(split_address(tracker), timeout_s) as connection:
            connection.sendall(_MAGIC)
            if _receive(connection, len(_MAGIC)) != _MAGIC:
                raise ValueError("its greeting is another one")
            question = json.dumps([_SUMMARY]).encode()
            connection.sendall(struct.pack("<i", len(question)) + question)
            (size,) = struct.unpack("<i", _receive(connection, 4))
            code, summary = json.loads(_receive(connection, size))
    except (OSError, OverflowError) as error:
        raise DeviceError(
            f"no RPC tracker answers at {tracker} ({getattr(error, 'strerror', None) or error}); start one: "
            f"python -m tvm.exec.rpc_tracker --port {split_address(tracker)[1]}"
        ) from None
    except (ValueError, TypeError) as error:
        raise DeviceError(f"what answers at {tracker} is no RPC tracker ({error}); correct rpc.tracker") from None
    if code != _SUCCESS:
        raise DeviceError(f"the RPC tracker at {tracker} refuses to tell its servers (code {code}); restart it")
    kinds = [str(server["key"]).partition(":")[2] for server in summary["server_info"]]
    free = summary["queue_info"].get(key, {}).get("free", 0)
    return ServerCount(kinds.count(key), free, tuple(sorted(set(kinds) - {key})))


def _receive(connection: socket.socket, size: int) -> bytes:
    found = b""
    while len(found) < size:
        part = connection.recv(min(size - len(found), 65536))
        if not part:
            raise ConnectionError("the connection was closed")
        found += part
    return found
