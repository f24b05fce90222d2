"""Every model under results/models/, evaluated again: `make zoo DATA=DIR`.

    python -m benchmarks.run zoo --data=DIR [--only-missing]     writes results/zoo.json
    python -m benchmarks.zoo --data=DIR [--workdir=W]            evaluates and compares, status 1 where they disagree

`DIR` is the published folder of CamVid, which all models so far are of. A model without a row, and a row without a
model, are disagreements too.
"""

import argparse
import functools
import json
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks import common
from jaxseg.errors import UserError

CLAIM = (
    "The models in the repository score on val what their rows say, wherever they are evaluated."
)
SEEDS = (0,)
ROOT = Path(__file__).resolve().parent.parent
MODELS = ROOT / "results" / "models"
RECORD = ROOT / "results" / "zoo.json"
SPLIT = "val"
TOLERANCE = 5e-4
"""Of mIoU: devices add up in other orders, so a few pixels lie on the other side of a border."""


def names() -> list[str]:
    """The folders, in order."""
    return sorted(folder.name for folder in MODELS.iterdir() if (folder / "arch.json").exists())


def evaluated(name: str, seed: int, workdir: Path, data: str) -> dict[str, Any]:
    """A model's row. It is copied first: `evaluate` writes beside a model what it found."""
    del seed
    shutil.copytree(MODELS / name, workdir / "model", dirs_exist_ok=True)
    score = common.scored(workdir, SPLIT, *([f"--config.data.dir={data}"] if data else []))
    size = sum(file.stat().st_size for file in (MODELS / name).iterdir())
    kept = ("miou", "aacc", "num_images")
    return {f"{SPLIT}_{k}" if k != "num_images" else k: score[k] for k in kept} | {"bytes": size}


ARMS = {name: functools.partial(evaluated, name) for name in names()}


def differences(rows: dict[str, dict[str, Any]], found: dict[str, dict[str, Any]]) -> list[str]:
    """What a table and an evaluation disagree on, a line each."""
    lines = [f"{name}: no row in {RECORD.name}" for name in found if name not in rows]
    lines += [f"{name}: a row, but no model" for name in rows if name not in found]
    for name in sorted(rows.keys() & found.keys()):
        then, now = (each[name][f"{SPLIT}_miou"] for each in (rows, found))
        if abs(then - now) > TOLERANCE:
            lines.append(f"{name}: {SPLIT} mIoU {100 * now:.2f} %, its row says {100 * then:.2f} %")
    return lines


def main(arguments: list[str]) -> int:
    """Evaluates all models and compares; 1 where they disagree."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.zoo")
    parser.add_argument("--data", default="", help="the published folder of CamVid")
    parser.add_argument(
        "--workdir", default="", help="where metrics are written; default: nowhere that stays"
    )
    args = parser.parse_args(arguments)
    rows = {row["arm"]: row for row in json.loads(RECORD.read_text())["rows"]}
    with tempfile.TemporaryDirectory() as temporary:
        workdir = Path(args.workdir or temporary)
        try:
            found = {name: evaluated(name, 0, workdir / name, args.data) for name in names()}
        except UserError as error:
            print(f"error: {error}", file=sys.stderr)
            return 2
    for name, row in found.items():
        print(
            f"{name}: {SPLIT} mIoU {100 * row[f'{SPLIT}_miou']:.2f} % of {row['num_images']} images"
        )
    wrong = differences(rows, found)
    print("\n".join(wrong) if wrong else f"all {len(found)} as {RECORD.name} says")
    return int(bool(wrong))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
