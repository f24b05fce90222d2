"""What tables of a report are made of."""

import json
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[2]

Record = dict[str, Any]


def load(name: str, root: Path = ROOT) -> Record:
    """results/NAME.json."""
    return json.loads((root / "results" / f"{name}.json").read_text())


def table(head: list[str], rows: list[list[str]]) -> str:
    """Markdown."""
    lines = [head, ["---"] * len(head), *rows]
    return "".join("| " + " | ".join(line) + " |\n" for line in lines)


def percent(values: Any) -> str:
    """Mean of fractions in per cent, and the range where there are several."""
    values = 100 * np.atleast_1d(np.asarray(values, float))
    if len(values) == 1:
        return f"{values[0]:.1f}"
    return f"{values.mean():.1f} ({values.min():.1f} to {values.max():.1f})"


def spread(values: list[float], digits: int = 2) -> str:
    """Mean, and the range where there are several; nothing of nothing."""
    if not values:
        return ""
    mean = f"{np.mean(values):.{digits}f}"
    if len(values) == 1:
        return mean
    return f"{mean} ({min(values):.{digits}f} to {max(values):.{digits}f})"


def rows_of(record: Record, arm: str) -> list[Record]:
    """The rows of an arm, by seed."""
    return sorted((r for r in record["rows"] if r["arm"] == arm), key=lambda r: r["seed"])


def seeds(record: Record) -> str:
    """How many, in words."""
    count = len({r["seed"] for r in record["rows"]})
    return f"mean of {count} seeds (lowest to highest)" if count > 1 else "1 seed"
