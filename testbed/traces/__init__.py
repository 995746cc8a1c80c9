"""Traces: what a wire's channel does over time. Generate, read, write, import, plot."""

from testbed.traces.files import load_trace, read_trace, write_trace
from testbed.traces.generate import describe, generate
from testbed.traces.mahimahi import read_mahimahi
from testbed.traces.trace import AtEnd, Kind, State, Trace

__all__ = [
    "AtEnd",
    "Kind",
    "State",
    "Trace",
    "describe",
    "generate",
    "load_trace",
    "read_mahimahi",
    "read_trace",
    "write_trace",
]
