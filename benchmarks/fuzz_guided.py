"""The decoders of ``benchmarks.fuzz`` under a coverage-guided fuzzer: ``python -m benchmarks.fuzz_guided PROTOCOL``.

Needs atheris (``pip install atheris``; libFuzzer), which no other part of the project does. Mutations are kept that
reach lines or comparisons of ours that none before did; msgspec's own C is a black box to it. Prints libFuzzer's
lines; ends with 77 and the frame's bytes in a file ``crash-...`` where there is a crash.
"""

from __future__ import annotations

import argparse
import contextlib
import sys
import tempfile
from pathlib import Path


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.fuzz_guided", description=__doc__)
    parser.add_argument("protocol", metavar="PROTOCOL")
    parser.add_argument("--frames", type=int, default=1_000_000)
    parser.add_argument("--seed", type=int, default=1)
    asked = parser.parse_args()
    try:
        import atheris
    except ImportError:
        parser.error("atheris is not installed here: pip install atheris")
    with atheris.instrument_imports(include=["testbed", "controller"]):
        from benchmarks import fuzz
    known = fuzz.protocols()
    if asked.protocol not in known:
        parser.error(f"no such protocol: {asked.protocol}; there are: {', '.join(known)}")
    protocol = known[asked.protocol]

    def decode(data: bytes) -> None:
        with contextlib.suppress(protocol.refusals):
            protocol.decode(data)

    corpus = Path(tempfile.mkdtemp(prefix="testbed-fuzz-"))
    for number, frame in enumerate(protocol.corpus):
        (corpus / str(number)).write_bytes(frame)
    options = ["-max_len=100000", "-rss_limit_mb=2048", "-malloc_limit_mb=64", "-print_final_stats=1"]
    atheris.Setup([sys.argv[0], f"-runs={asked.frames}", f"-seed={asked.seed}", *options, str(corpus)], decode)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
