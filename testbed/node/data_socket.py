"""A UE's end of the data socket."""

from __future__ import annotations

import zmq

_RECONNECT_MILLISECONDS = 100
_HIGH_WATER = 64  # messages; what is under way is bounded in bytes, by credit
#: The send buffer is fixed when the socket connects, before any rate is known; the wires' usual top stands in.
_BUFFER_RATE = 100e6
_SEND_BUFFER_BYTES = (32 * 1024, 1024 * 1024)


def connect(
    context: zmq.Context[zmq.Socket[bytes]], node: str, endpoint: str, round_trip_seconds: float
) -> tuple[zmq.Socket[bytes], zmq.Socket[bytes]]:
    """The data socket of a UE, and its monitor for handshakes and disconnects.

    No ZeroMQ heartbeat: a 600 kB message at 2 Mbit/s outlives it, and its task would be lost in silence.
    """
    socket = context.socket(zmq.DEALER)
    socket.set(zmq.IDENTITY, node.encode())
    socket.set(zmq.IMMEDIATE, 1)  # nothing is queued for an edge that is not there
    socket.set(zmq.LINGER, 0)
    socket.set(zmq.SNDHWM, _HIGH_WATER)
    socket.set(zmq.RCVHWM, 1000)
    socket.set(zmq.RECONNECT_IVL, _RECONNECT_MILLISECONDS)
    wanted = 2 * _BUFFER_RATE / 8 * round_trip_seconds
    socket.set(zmq.SNDBUF, int(min(max(wanted, _SEND_BUFFER_BYTES[0]), _SEND_BUFFER_BYTES[1])))
    monitor = socket.get_monitor_socket(zmq.EVENT_DISCONNECTED | zmq.EVENT_HANDSHAKE_SUCCEEDED)
    socket.connect(endpoint)
    return socket, monitor


def disconnect(socket: zmq.Socket[bytes], monitor: zmq.Socket[bytes]) -> None:
    """What :func:`connect` gave."""
    socket.disable_monitor()
    monitor.close(linger=0)  # disable_monitor leaves this end open, and term() would wait for it
    socket.close()
