"""A model that moves, both ends in one process: whole or not at all, resumed, never half applied."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
import zmq

from controller.contract import UeDecision, UeName, cut_label
from controller.model.cuts import device_set
from testbed.inference.partition import SplitModel, load_split_model
from testbed.inference.weights import Contents, pack
from testbed.mechanisms.retraining.model_store import ModelStore, _Holder
from testbed.mechanisms.retraining.model_updates import DeviceWeights, ModelUpdates
from testbed.mechanisms.retraining.update_frames import Fetch, Gone, Offer, Piece, Published, Want, decode_up, encode
from testbed.node.threads import Wakeup

MODEL = "tests.emulation.labs.tiny_model:make"
SEED = 5


def decision(split: SplitModel, index: int, **changes: object) -> UeDecision:
    return UeDecision(UeName("ue0"), split.graph.chain_cuts[index], 0.5, 1e6, 1e6, 0.3, **changes)  # type: ignore[arg-type]


class Device:
    """A UE without its tasks: what the stage thread does between two heads is done by :meth:`until`."""

    def __init__(self, context: zmq.Context[zmq.Socket[bytes]], endpoint: str) -> None:
        self.split = load_split_model(MODEL, SEED)
        self.weights = DeviceWeights(self.split)
        self.updates = ModelUpdates(context, "ue0", endpoint, self.weights, self.split, 0.1, Wakeup())

    def until(self, condition: Callable[[], bool], seconds: float = 10.0) -> None:
        end = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < end, f"version {self.weights.placed.version}, records {self.updates.records}"
            self.weights.adopt()
            time.sleep(0.005)

    def answer(self) -> torch.Tensor:
        return self.split.partition(()).head(self.split.model.probe)[0].clone()


@contextmanager
def context() -> Iterator[zmq.Context[zmq.Socket[bytes]]]:
    made: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    try:
        yield made
    finally:
        made.destroy(linger=0)


def free_port() -> int:
    with zmq.Context() as made, made.socket(zmq.ROUTER) as probe:
        return probe.bind_to_random_port("tcp://127.0.0.1")


def test_the_newest_version_arrives_bit_by_bit_and_old_ones_are_dropped() -> None:
    edge, port = load_split_model(MODEL, SEED), free_port()
    with context() as made:
        store = ModelStore(
            made, {"ue0": edge}, {"ue0": f"tcp://127.0.0.1:{port}"},
            seed=SEED, interval_seconds=0.1, perturbation=0.3, hold_seconds=0.0,
        )  # fmt: skip
        device = Device(made, f"tcp://127.0.0.1:{port}")
        store.start()
        device.updates.start()
        device.updates.want(decision(edge, -1))
        store.begin(time.monotonic())
        try:
            device.until(lambda: device.weights.placed.version >= 5)
            store.begin(float("inf"))  # no more versions
            device.until(lambda: device.weights.placed.version == store.newest)
            device.until(lambda: len(edge.weights.versions) <= 3)
        finally:
            device.updates.stop()
            store.stop()
        reference = load_split_model(MODEL, SEED)
        for version in range(1, store.newest + 1):
            reference.weights.train(version, SEED, 0.3)
        reference.weights.use(store.newest)
        assert torch.equal(device.answer(), reference.partition(()).head(reference.model.probe)[0])
        assert 0 in edge.weights
        assert store.newest - 3 not in edge.weights
        assert [record.status for record in device.updates.records] == ["placed"] * len(device.updates.records)


class Edge:
    """The other end, played by the test."""

    def __init__(self, made: zmq.Context[zmq.Socket[bytes]]) -> None:
        self.socket = made.socket(zmq.ROUTER)
        self.port = self.socket.bind_to_random_port("tcp://127.0.0.1")

    def take(self, kind: type, seconds: float = 10.0) -> Want | Fetch:
        """The next request of a kind."""
        end = time.monotonic() + seconds
        while self.socket.poll(max(0, int((end - time.monotonic()) * 1e3))):
            message = decode_up(self.socket.recv_multipart()[1])
            if isinstance(message, kind):
                return message
        raise AssertionError(f"no {kind.__name__}")

    def send(self, frame: Published | Offer | Piece | Gone, *more: bytes) -> None:
        self.socket.send_multipart([b"ue0", encode(frame), *more])

    def serve(self, block: bytes, version: int, upto: int) -> None:
        """Answer fetches until the byte ``upto``."""
        reached = 0
        while reached < upto:
            fetch = self.take(Fetch)
            assert isinstance(fetch, Fetch)
            self.send(Piece(version, fetch.cut, fetch.offset), block[fetch.offset : fetch.offset + fetch.length])
            reached = fetch.offset + fetch.length


def version_block(version: int, cut_index: int) -> tuple[str, Contents, bytes]:
    split = load_split_model(MODEL, SEED)
    for number in range(1, version + 1):
        split.weights.train(number, SEED, 0.3)
    cut = split.graph.chain_cuts[cut_index]
    contents, block = pack(split.weights.tensors(version, device_set(split.graph.nodes, cut)))
    return cut_label(cut), contents, block


def test_an_interrupted_download_goes_on_and_damaged_or_stale_ones_are_thrown_away() -> None:
    with context() as made:
        edge = Edge(made)
        device = Device(made, f"tcp://127.0.0.1:{edge.port}")
        first = device.answer()
        device.updates.rate_bits_per_second = 1e6  # pieces of two segments
        device.updates.start()
        try:
            device.updates.want(decision(device.split, -1))
            want = edge.take(Want)
            assert want == Want(0, want.cut)
            label, contents, block = version_block(1, -1)

            edge.send(Published(1))
            edge.take(Want)
            edge.send(Offer(1, label, contents))
            edge.serve(block, 1, 1)
            asked: list[int] = []
            while len(asked) < 2 or asked[-1] != asked[0]:  # silence: what was asked for is asked for again
                fetch = edge.take(Fetch)
                assert isinstance(fetch, Fetch)
                asked.append(fetch.offset)
            assert asked[0] > 0
            edge.send(Gone(1))
            device.until(lambda: len(device.updates.records) == 1)
            assert device.updates.records[0].status == "discarded"
            assert torch.equal(device.answer(), first)

            edge.take(Want)
            edge.send(Offer(1, label, contents))
            damaged = bytearray(block)
            damaged[-1] ^= 1
            edge.serve(bytes(damaged), 1, len(block))
            device.until(lambda: len(device.updates.records) == 2)
            assert "checksum" in device.updates.records[1].reason
            assert torch.equal(device.answer(), first)

            edge.take(Want)
            edge.send(Offer(1, label, contents))
            edge.serve(block, 1, 1)
            time.sleep(1.3)  # a pause of the connection
            edge.serve(block, 1, len(block))
            device.until(lambda: device.weights.placed.version == 1)
            device.until(lambda: len(device.updates.records) == 3)
            assert device.updates.records[2].resumed >= 1
            assert device.updates.records[2].payload_bytes == len(block)
            assert not torch.equal(device.answer(), first)
        finally:
            device.updates.stop()
            edge.socket.close()


def test_a_task_is_cut_no_deeper_than_what_is_placed() -> None:
    split = load_split_model(MODEL, SEED)
    weights = DeviceWeights(split)
    chain = split.graph.chain_cuts
    labels = [cut_label(cut) for cut in chain]
    label, contents, block = version_block(1, 2)
    from testbed.inference.weights import unpack
    from testbed.mechanisms.retraining.model_updates import Placed

    deep = decision(split, -1, stop_rule=tuple((name, 1.0) for name in labels[:-1]))
    assert weights.fit(deep) is deep
    weights.hand_over(Placed(1, weights.device_set(chain[2])), unpack(contents, bytearray(block)))
    assert weights.placed.version == 0  # not before the stage thread takes it
    weights.adopt()
    fitted = weights.fit(deep)
    assert (cut_label(fitted.cut), [name for name, _ in fitted.stop_rule]) == (label, labels[:2])
    assert weights.fit(decision(split, 0)).cut == chain[0]


def test_versions_are_kept_while_a_task_of_them_may_be_on_its_way() -> None:
    holder = _Holder()
    assert holder.oldest(0.0, 60.0) == 0
    assert not holder.moves_to(0, 0.0)
    assert holder.moves_to(3, 10.0)
    assert holder.moves_to(7, 30.0)
    assert holder.oldest(31.0, 60.0) == 0
    assert holder.oldest(75.0, 60.0) == 3  # version 0 was left at 10
    assert holder.oldest(95.0, 60.0) == 7
    assert holder.moves_to(0, 100.0)  # it was killed, and starts over
    assert holder.oldest(300.0, 60.0) == 0
