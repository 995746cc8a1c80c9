"""``python -m testbed``."""

from __future__ import annotations

import sys
from pathlib import Path

# ``-m`` puts the present directory before everything: a file of any name in it would be imported instead of a module,
# by this process and by all that it starts. Where the package itself is found there, that is how it is run.
if not sys.flags.safe_path and sys.path[0] != str(Path(__file__).parents[1]):
    del sys.path[0]

from testbed.cli import main

main()
