"""A graph shortened to what its cuts can differ in, made once per model: far fewer vertices for the minimum cut.

A device set holds, with every node, all that the node reads. Therefore

- of a value's readers only the *last* count, those that no other reader depends on: if any reader is on the edge, one
  of them is. A skip connection so becomes one edge, and a value that all later layers of a dense block read, too;
- of what a node reads, only the values that it reads through no other order the sets;
- a *run* of nodes, each ordered after nothing but the one before it, is cut at one place if at all. What the places
  inside a run cost is found by sums along it (:mod:`controller.solvers.dag.mincut`), so that a run is two vertices: its
  first node, and its last.

Each step is exact: no cut that a head and a tail can carry out is lost, and none is priced otherwise.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Runs:
    """Nodes by their indices in topological order, runs by their number, in the order of their first nodes."""

    runs: tuple[tuple[int, ...], ...]
    run_of: tuple[int, ...]  # of each node
    last_readers: tuple[tuple[int, ...], ...]  # of each node's value
    #: (run, run that must be wholly on the device if the first node of the former is)
    after: tuple[tuple[int, int], ...]

    @classmethod
    def of(cls, inputs: Sequence[Sequence[int]]) -> Runs:
        """From what each node reads: indices that are below its own."""
        readers: list[list[int]] = [[] for _ in inputs]
        before: list[int] = []  # of each node, all that it depends on, as a bit set
        parents: list[list[int]] = []
        for node, read in enumerate(inputs):
            through = 0
            for value in read:
                through |= before[value]
                readers[value].append(node)
            parents.append([value for value in dict.fromkeys(read) if not through >> value & 1])
            before.append(through | sum(1 << value for value in parents[-1]))
        last_readers = []
        for found in readers:
            through = 0
            for reader in found:
                through |= before[reader]
            last_readers.append(tuple(reader for reader in dict.fromkeys(found) if not through >> reader & 1))
        children = [0] * len(inputs)
        for one in parents:
            for parent in one:
                children[parent] += 1
        ends_of: list[list[int]] = [[] for _ in inputs]  # the values whose only last reader a node is
        joined: set[int] = set()  # nodes that share a value with another last reader
        for value, last in enumerate(last_readers):
            if len(last) == 1:
                ends_of[last[0]].append(value)
            else:
                joined.update(last)
        runs: list[list[int]] = []
        run_of: list[int] = []
        for node, one in enumerate(parents):
            goes_on = len(one) == 1 and children[one[0]] == 1 and node not in joined
            if goes_on and all(run_of[value] == run_of[one[0]] for value in ends_of[node]):
                run_of.append(run_of[one[0]])
                runs[run_of[node]].append(node)
            else:
                run_of.append(len(runs))
                runs.append([node])
        after = {(run_of[node], run_of[parent]) for node, one in enumerate(parents) for parent in one}
        return cls(
            tuple(map(tuple, runs)),
            tuple(run_of),
            tuple(last_readers),
            tuple(sorted((later, earlier) for later, earlier in after if later != earlier)),
        )
