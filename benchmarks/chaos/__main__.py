"""Labs to which something happens at some moment, judged afterwards; one lab at a time, as JSON on stdout.

    python -m benchmarks.chaos [--labs 200] [--seed 1] [--runtime netns] [--seconds 10] [--event NAME] [--keep FOLDER]
    python -m benchmarks.chaos --read FOLDER/labs.jsonl

Everything is drawn from the seed: what happens, to which program, when. ``--first N`` goes on with lab N of the same
seed. ``--keep`` has a line of JSON for each lab, and the folders of those with a fault. Exit code 1 if there was one.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import tempfile
from pathlib import Path

from benchmarks.chaos.events import EVENTS
from benchmarks.chaos.experiment import Verdict, experiment, pick, read_verdicts, table

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--labs", type=int, default=200)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--runtime", default="netns", choices=("netns", "docker"))
    parser.add_argument("--event", choices=sorted(EVENTS), help="only this one")
    parser.add_argument("--keep", type=Path)
    parser.add_argument("--read", type=Path, nargs="+", help="judge kept lines anew, and run nothing")
    given = parser.parse_args()
    if given.read:
        print(json.dumps(table([verdict for path in given.read for verdict in read_verdicts(path)]), indent=1))
        sys.exit(0)
    keep = given.keep or Path(tempfile.mkdtemp(prefix="chaos-"))
    keep.mkdir(parents=True, exist_ok=True)
    verdicts: list[Verdict] = []
    for index in range(given.first, given.first + given.labs):
        name = given.event or pick(given.runtime, given.seed, index)
        drawn = random.Random(f"{given.seed} {given.runtime} {index}")
        verdict = experiment(name, given.runtime, given.seconds, drawn, keep / f"{given.seed}-{given.runtime}-{index}")
        verdicts.append(verdict)
        with (keep / "labs.jsonl").open("a") as lines:
            lines.write(json.dumps({"index": index, "seed": given.seed, **verdict.plain()}) + "\n")
        print(f"{index:4d} {verdict.line()}", file=sys.stderr, flush=True)
    print(json.dumps(table(verdicts), indent=1))
    sys.exit(any(verdict.faults for verdict in verdicts))
