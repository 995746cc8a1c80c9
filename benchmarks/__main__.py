"""``python -m benchmarks [NAME...]``: run the figures one after the other, as JSON under build/benchmarks.

Each file of this folder prints one JSON document. Keep the machine quiet: nothing else runs meanwhile.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent
OUT = Path("build/benchmarks")
#: Run only when they are named: an hour each.
LONG = ("soak",)


def main(names: list[str]) -> int:
    known = sorted(path.stem for path in HERE.glob("*.py") if not path.stem.startswith("_") and path.stem != "table")
    unknown = [name for name in names if name not in known]
    if unknown:
        print(f"no such benchmark: {', '.join(unknown)}; there are: {', '.join(known)}", file=sys.stderr)
        return 2
    OUT.mkdir(parents=True, exist_ok=True)
    failed = []
    for name in names or [one for one in known if one not in LONG]:
        print(f"{name} ...", file=sys.stderr, flush=True)
        result = subprocess.run(
            [sys.executable, "-m", f"benchmarks.{name}"], stdout=subprocess.PIPE, text=True, check=False
        )
        if result.returncode == 3:
            print(f"{name}: this host lacks something for it (see above)", file=sys.stderr)
            continue
        if result.returncode != 0:
            failed.append(name)
            continue
        (OUT / f"{name}.json").write_text(result.stdout)
        json.loads(result.stdout)
        print(f"{name}: {OUT / name}.json", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
