"""``python -m testbed.campaign.worker PARENT``: a warm process for many jobs, a line of JSON in and one out.

What user code prints goes to standard error; the process ends with whoever started it.
"""

from __future__ import annotations

import os
import signal
import sys

import msgspec

from testbed.campaign.following import follow
from testbed.campaign.jobs import Simulation, Training, perform


def main() -> None:
    follow(int(sys.argv[1]), signal.SIGKILL)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the campaign, which ends this process
    answers = os.dup(1)
    os.dup2(2, 1)
    for line in sys.stdin.buffer:
        outcome = perform(msgspec.json.decode(line, type=Simulation | Training), lambda _text: None)
        os.write(answers, msgspec.json.encode(outcome) + b"\n")


if __name__ == "__main__":
    main()
