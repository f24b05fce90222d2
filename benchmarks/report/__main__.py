"""`python -m benchmarks.report [--check]`: writes tables and pictures.

`--check` writes nothing and ends with status 1 when a document and `results/` disagree.
"""

import argparse
import sys
from pathlib import Path

from benchmarks.report import documents
from benchmarks.report.markdown import ROOT


def main(arguments: list[str], root: Path = ROOT) -> int:
    """Writes, or checks; 1 when a check fails."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.report")
    parser.add_argument("--check", action="store_true", help="write nothing, compare")
    check = parser.parse_args(arguments).check
    stale = []
    for name in documents.NAMES:
        path = root / name
        old = path.read_text()
        new = documents.filled(old, root)
        if new != old:
            stale.append(name)
            if not check:
                path.write_text(new)
    if not check:
        documents.draw_all(root)
    for name in stale:
        print(f"{name}: {'differs from results/' if check else 'written'}")
    return int(check and bool(stale))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
