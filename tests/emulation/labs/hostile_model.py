"""A user's model that attacks its lab from inside the UE ``mallory``, and one that takes all memory in ``oscar``.

It prints a line for each attack, ``ATTACK name: outcome``, and goes on computing as the tiny model that it is.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
import threading
import time
from collections.abc import Callable
from functools import cache
from pathlib import Path

import zmq
from tiny_model import make as _make
from torch import nn

from controller.service import protocol
from testbed.node import task_frames
from testbed.node.transport import TaskStream
from testbed.programs.ue.ue_agent import UeAgent
from testbed.protocol import records, sockets

NODE = "mallory"
HOG = "oscar"
VICTIM = "alice"
#: What the kernel takes of a connection that nobody reads, and a little of what somebody does.
ENOUGH_BYTES = 8 << 20
_begin_well = UeAgent._begin


def make() -> nn.Module:
    UeAgent._begin = _begin  # type: ignore[method-assign]
    return _make()


def _begin(agent: UeAgent, start: protocol.Start) -> None:
    """The agent's own, and with it the attack."""
    _begin_well(agent, start)
    node = os.environ["TESTBED_NODE"]
    if node in (NODE, HOG):
        folder = sockets.socket_path(agent._node.config.lab_directory, node, "control").parent
        threading.Thread(target=_attack, args=(node, folder), daemon=True).start()


def _attack(node: str, folder: Path) -> None:
    if node == HOG:
        time.sleep(5.0)
        hoard = []
        while True:
            hoard.append(bytearray(b"x" * (4 << 20)))
    for attack in (
        _speak_as_others, _command_the_lab, _record_for_others, _nest, _never_end, _claim_lengths, _connect_often,
        _never_read, _flood, _say_another_name_on_the_wire, _send_wrong_shapes, _never_end_on_the_wire,
        _connect_often_on_the_wire, _reach_anothers_wire, _look_around, _fill_folders,
    ):  # fmt: skip
        if os.geteuid() == 0 and attack in (_look_around, _fill_folders):
            continue  # no container: nothing would keep it from filling the host's folders
        try:
            outcome = attack(folder)
        except Exception as error:  # noqa: BLE001 - what it was refused with is what is asked
            outcome = f"{type(error).__name__}: {error}"
        print(f"ATTACK {attack.__name__[1:]}: {outcome}", flush=True)
    print("ATTACK all: done", flush=True)


# ------------------------------------------------------------------------------------------- on its own UNIX sockets


def _say(folder: Path, name: str, frames: list[bytes], kind: int = zmq.DEALER, identity: str = NODE) -> str:
    with zmq.Context() as context, context.socket(kind) as sock:
        sock.set(zmq.LINGER, 500)
        if kind == zmq.DEALER:
            sock.set(zmq.IDENTITY, identity.encode())
        sock.connect(f"ipc://{folder / name}")
        for frame in frames:
            sock.send(frame)
        if kind == zmq.DEALER and sock.poll(300):
            return f"was answered {type(protocol.decode_control(sock.recv())).__name__}"
    return "no answer"


def _speak_as_others(folder: Path) -> str:
    said = [
        protocol.Hello(VICTIM, "ue", 1),
        protocol.Hello("edge", "edge", 1),
        protocol.Hello(NODE, "ue", 1, weights={VICTIM: "00"}),
        protocol.Hello(NODE, "ue", 1, stage_tid=1, extra_tids=tuple(range(1000))),
        protocol.EdgeReport(10**9, 0.0, ()),
        protocol.PlayerReport(10**9, 0.0, ()),
        protocol.Response(VICTIM, 1, 1, None, "no"),
    ]
    return _say(folder, "control", [protocol.encode(one) for one in said], identity=VICTIM)


def _command_the_lab(folder: Path) -> str:
    said = [
        protocol.SetPolicy("device-only"),
        protocol.SetLink(VICTIM, rate_up_bits_per_second=1000.0),
        protocol.StopLab("mine"),
        protocol.Begin(1.0, 0.0),
        protocol.Stop("mine"),
        protocol.Drain(),
        protocol.StatusRequest(),
    ]
    answer = _say(folder, "control", [protocol.encode(one) for one in said], identity="cli-1-1")
    operator = folder.parent / sockets.OPERATOR
    seen = sorted(path.name for path in operator.iterdir()) if operator.exists() else "none"
    return f"{answer}; the operator's sockets: {seen}"


def _record_for_others(folder: Path) -> str:
    said = [
        records.TaskArrived(VICTIM, 10**6, 0.0),
        records.Event(0.0, VICTIM, "died", "of another's hand"),
        records.NodeHealth(VICTIM, 0.0, 1e9, 0, 0.0),
        records.LinkStep(VICTIM, "up", 0.0, 0.0, 1.0, 1.0, 1.0, "trace"),
    ]
    return _say(folder, "records", [protocol.encode(one) for one in said], zmq.PUSH)


def _nest(folder: Path) -> str:
    nested = b"\x91" * 50_000 + b"\x90"
    unknown = b"\x82\xa4type\xa5Hello\xa1x" + nested
    _say(folder, "records", [nested, unknown], zmq.PUSH)
    return _say(folder, "control", [nested, unknown])


def _raw(path: Path, kind: bytes) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX)
    sock.settimeout(2.0)
    sock.connect(str(path))
    _handshake(sock, kind)
    return sock


def _handshake(sock: socket.socket, kind: bytes) -> None:
    ready = b"\x05READY\x0bSocket-Type" + struct.pack(">I", len(kind)) + kind
    ready += b"\x08Identity" + struct.pack(">I", len(NODE)) + NODE.encode()
    sock.sendall(b"\xff" + bytes(7) + b"\x01\x7f\x03\x00NULL".ljust(24, b"\0") + bytes(32))
    sock.sendall(bytes((4, len(ready))) + ready)
    sock.recv(66, socket.MSG_WAITALL)
    sock.recv(1000)


KINDS = {"control": b"DEALER", "records": b"PUSH"}


def _until_cut(send: Callable[[], int]) -> str:
    sent = 0
    try:
        while sent < ENOUGH_BYTES:
            sent += send()
    except TimeoutError:
        return "nobody reads on"
    except OSError as error:
        return f"cut off ({errno.errorcode.get(error.errno or 0)})"
    return f"{sent} bytes were taken"


def _never_end(folder: Path) -> str:
    part = b"\x03" + struct.pack(">Q", 60_000) + bytes(60_000)
    said = []
    for name, kind in KINDS.items():
        with _raw(folder / name, kind) as sock:
            said.append(f"{name} {_until_cut(lambda sock=sock: sock.send(part) * 0 + len(part))}")  # type: ignore[misc]
    return ", ".join(said)


def _claim_lengths(folder: Path) -> str:
    said = []
    for name, kind in KINDS.items():
        with _raw(folder / name, kind) as sock:
            sock.sendall(b"\x02" + struct.pack(">Q", 1 << 62))
            said.append(f"{name} {_until_cut(lambda sock=sock: sock.send(bytes(60_000)))}")  # type: ignore[misc]
    return ", ".join(said)


def _connect_often(folder: Path) -> str:
    refused = 0
    held: list[socket.socket] = []
    for _ in range(10_000):
        sock = socket.socket(socket.AF_UNIX)
        sock.setblocking(False)
        try:
            sock.connect(str(folder / "control"))
            held.append(sock)
        except OSError:
            refused += 1
            sock.close()
        if len(held) > 200:
            held.pop(0).close()
    for sock in held:
        sock.close()
    time.sleep(2.0)  # whoever wants so many has to wait
    return f"{refused} of 10000 refused"


def _never_read(folder: Path) -> str:
    """The newest connection is the one that is answered: this one says hello, and is deaf."""
    with _raw(folder / "control", b"DEALER") as sock:
        hello = protocol.encode(protocol.Hello(NODE, "ue", 1, weights={}))
        for _ in range(200):
            sock.sendall(bytes((0, len(hello))) + hello)
        time.sleep(1.0)
    return "was deaf for a second"


def _flood(folder: Path) -> str:
    event = protocol.encode(records.Event(0.0, NODE, "flood", "x" * 1000))
    with zmq.Context() as context, context.socket(zmq.PUSH) as sock:
        sock.set(zmq.LINGER, 0)
        sock.connect(f"ipc://{folder / 'records'}")
        for _ in range(3_000):
            sock.send(event)
    return "3000 events"


# ------------------------------------------------------------------------------------------------------- on its wire


@cache
def _edge() -> tuple[str, int]:
    """Where the edge hears this UE, by its own connection's addresses; it has none while it is cut off."""
    deadline = time.monotonic() + 10.0
    while time.monotonic() < deadline:
        for line in Path("/proc/self/net/tcp").read_text().splitlines()[1:]:
            remote, state = line.split()[2:4]
            if state == "01" and remote.endswith(":15B3"):
                return socket.inet_ntoa(struct.pack("<I", int(remote[:8], 16))), 5555
        time.sleep(0.05)
    raise ConnectionError("this UE has no connection to the edge")


def _on_the_wire() -> socket.socket:
    sock = socket.create_connection(_edge(), timeout=5.0)
    _handshake(sock, b"DEALER")
    return sock


def _say_another_name_on_the_wire(folder: Path) -> str:
    address, port = _edge()
    with zmq.Context() as context, context.socket(zmq.DEALER) as sock:
        sock.set(zmq.LINGER, 500)
        sock.set(zmq.IDENTITY, VICTIM.encode())
        sock.connect(f"tcp://{address}:{port}")
        sock.send_multipart([task_frames.encode(task_frames.Chunk(1, 0)), b"header", b"payload"])
        return "was answered" if sock.poll(1000) else "no answer"


def _send_wrong_shapes(folder: Path) -> str:
    import torch

    from testbed.inference import tensors

    said = []
    address, port = _edge()
    with zmq.Context() as context, context.socket(zmq.DEALER) as sock:
        sock.set(zmq.LINGER, 0)
        sock.set(zmq.IDENTITY, NODE.encode())
        sock.connect(f"tcp://{address}:{port}")
        wrong = (torch.zeros(16 * 128), torch.zeros(1, 8, 16, 16).long(), torch.zeros(1, 16, 128))
        for index, tensor in enumerate(wrong):
            said.append("no answer")
            for attempt in range(30):  # this UE's own socket wants the wire, too: the newest connection has it
                number = 10**6 + 100 * index + attempt
                header, buffers = tensors.pack(number, ("first",), [tensor], "fp32")
                sock.send_multipart(TaskStream(number, header, buffers).next_chunk(1 << 20))
                while sock.poll(300):
                    message = task_frames.decode_down(sock.recv_multipart()[0])
                    if isinstance(message, task_frames.Result) and message.task == number:
                        said[-1] = message.reason
                if "of shape" in said[-1]:  # what was cut off with the wire was not looked at
                    break
    return " | ".join(said)


def _never_end_on_the_wire(folder: Path) -> str:
    time.sleep(1.0)
    with _on_the_wire() as sock:
        return _until_cut(lambda: sock.send(b"\x01\x00" * 30_000))


def _connect_often_on_the_wire(folder: Path) -> str:
    time.sleep(2.0)
    edge, held = _edge(), []
    for _ in range(200):
        sock = socket.socket()
        sock.settimeout(0.5)
        held.append(sock)
        if sock.connect_ex(edge):
            break
    # the newest may stay until this UE's own, which it drove out, has come back
    deadline = time.monotonic() + 10.0
    while (left := sum(_is_open(sock) for sock in held)) and time.monotonic() < deadline:
        time.sleep(0.1)
    for one in held:
        one.close()
    return f"{left} of {len(held)} are left"


def _is_open(sock: socket.socket) -> bool:
    sock.setblocking(False)
    try:
        while sock.recv(1000):
            pass
    except BlockingIOError:
        return True
    except OSError:
        pass
    return False


def _reach_anothers_wire(folder: Path) -> str:
    time.sleep(2.0)  # its own connection is made again
    address, port = _edge()
    base, _, last = address.rpartition(".")
    reached = []
    for other in range(16):
        target = f"{base}.{other}"
        if target == address or (other | 1) == (int(last) | 1):  # its own wire's two ends
            continue
        with socket.socket() as sock:
            sock.settimeout(0.2)
            if sock.connect_ex((target, port)) == 0:
                reached.append(target)
    return f"reached {reached}"


# ------------------------------------------------------------------------------------------- what a container may not


def _look_around(folder: Path) -> str:
    lab = folder.parent.parent
    seen = sorted(str(path.relative_to(lab)) for path in lab.rglob("*") if path.is_dir())
    processes = [entry.name for entry in Path("/proc").iterdir() if entry.name.isdigit()]
    return f"{seen}, {len(processes)} processes"


def _fill_folders(folder: Path) -> str:
    said = []
    for where in (folder, folder.parent, folder.parent.parent / "shared", Path("/run"), Path("/opt"), Path("/tmp")):
        try:
            with (where / "filled").open("wb") as file:
                for _ in range(1000):
                    file.write(bytes(1 << 20))
            said.append(f"{where}: filled")
        except OSError as error:
            said.append(f"{where.name}: {errno.errorcode.get(error.errno or 0)}")
        (where / "filled").unlink(missing_ok=True) if os.access(where, os.W_OK) else None
    return ", ".join(said)
