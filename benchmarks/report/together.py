"""Tables and pictures of experiments over whole methods: each added to the others, and all of them in one picture."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from benchmarks.report.markdown import Record, percent, rows_of, spread, table

FINAL, WITHIN = "final", "within"
ADDED = {
    "plain": "plain: cells by hand, floats",
    "gas": "+ cells after GAS",
    "gas_mess": "+ exits",
    "gas_mess_dance": "+ slimming after DANCE",
    "all": "+ integers: everything",
    "without_gas": "everything but searched cells",
    "without_mess": "everything but exits",
    "without_dance": "everything but slimming",
    "plain_int8": "control: plain, calibrated to int8",
    "narrow_int8": "control: narrower plain, calibrated to int8",
}
LEFT_OUT = {
    "without_gas": "searched cells",
    "without_mess": "exits",
    "without_dance": "slimming",
    "gas_mess_dance": "integers",
}
PICTURE = {
    "plain": ("plain", "s", "black"),
    "narrow_0.1875": ("narrower (0.1875)", "D", "tab:gray"),
    "narrow_0.125": ("narrower (0.125)", "d", "tab:gray"),
    "calibrated": ("plain, calibrated to int8", "x", "tab:purple"),
    "integer": ("trained in integers", "P", "tab:purple"),
    "dance": ("after DANCE", "o", "tab:orange"),
    "dance_eights": ("after DANCE, by eights", "<", "tab:orange"),
    "mess": ("exits, final answer", "v", "tab:red"),
    "mess within": ("exits, in 3/4 of the time", "^", "tab:red"),
    "hand": ("cells by hand", "s", "tab:green"),
    "gas": ("cells after GAS", "*", "tab:green"),
    "itnet": ("loop, 8 passes", "p", "tab:blue"),
    "itnet_2": ("loop, 2 passes", "h", "tab:blue"),
}
"""Arms of `pareto`, '<arm> within' for what exits buy: words, marker, colour."""


def _ratios(record: Record, name: str) -> list[float]:
    """Latency to that of `plain`, seed by seed."""
    rows = rows_of(record, "measured")
    return [r["ms"][name] / r["ms"]["plain"] for r in rows if name in r["ms"]]


def _mean(values: list[float], form: str) -> str:
    return format(np.mean(values), form) if values else ""


def train_s(row: Record, key: str = "train_wall_s") -> float:
    """Seconds of training, those of its search included."""
    return row[key] + row.get("search_wall_s", 0.0)


def _lines(record: Record, arm: str, words: str, share: str) -> list[list[str]]:
    """Of a network: its final answer and, with exits, what the search deployed."""
    found = rows_of(record, arm)
    lines = []
    for kind in (FINAL, WITHIN):
        each = [r[kind] for r in found if kind in r]
        if not each:
            continue
        trained = [r for r in found if "train_wall_s" in r]
        first = kind == FINAL
        lines.append(
            [
                words if first else f"-- deployed to {share} of its time",
                percent([e["miou"] for e in each]),
                spread(_ratios(record, arm if first else f"{arm} {WITHIN}")),
                _mean([e["macs"] / 1e6 for e in each], ".1f"),
                _mean([e["params"] / 1e3 for e in each], ".0f"),
                _mean([e["bytes"] / 1e3 for e in each], ".0f"),
                _mean([train_s(r) for r in trained], ".0f") if first else "",
                _mean([r["train_steady_s"] for r in trained], ".0f") if first else "",
                str(len(each)),
            ]
        )
    return lines


HEAD = [
    "test mIoU, %",
    "answer / plain, measured in turn",
    "MMACs of an answer",
    "thousand parameters",
    "kB",
    "training, s, with search and compiling",
    "steps alone, s",
    "seeds",
]


def added(record: Record) -> str:
    """What each method adds, and everything but one."""
    rows = []
    for arm, words in ADDED.items():
        rows += _lines(record, arm, words, "9/10")
    return table(["toy_street", *HEAD], rows)


def left_out(record: Record) -> str:
    """Everything less everything but one: points and latencies, seed by seed."""
    rows = []
    for arm, words in LEFT_OUT.items():
        others = {r["seed"]: r for r in rows_of(record, arm)}
        pairs = [(r, others[r["seed"]]) for r in rows_of(record, "all") if r["seed"] in others]
        if not pairs:
            continue
        points = [100 * (a[FINAL]["miou"] - b[FINAL]["miou"]) for a, b in pairs]
        ms = [
            r["ms"]["all"] / r["ms"][arm]
            for r in rows_of(record, "measured")
            if {"all", arm} <= r["ms"].keys()
        ]
        time = [train_s(a) / train_s(b) for a, b in pairs]
        each = ", ".join(f"{p:+.1f}" for p in points)
        rows.append([words, f"{np.mean(points):+.1f} ({each})", spread(ms), spread(time)])
    head = [
        "with, to without",
        "points of the final answer, mean (each seed)",
        "its latency",
        "training time",
    ]
    return table(head, rows)


def pareto(record: Record) -> str:
    """All arms of the picture."""
    rows = []
    for name, (words, _, _) in PICTURE.items():
        if not name.endswith(f" {WITHIN}"):
            rows += _lines(record, name, words.removesuffix(", final answer"), "3/4")
    return table(["toy_street", *HEAD], rows)


def draw(record: Record, path: Path) -> None:
    """Test mIoU against measured latency, and against training time: means, bars from lowest to highest."""
    figure = Figure(figsize=(13, 4.6), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(1, 2, sharey=True)
    plain = {r["seed"]: r for r in rows_of(record, "plain")}
    costs: tuple[tuple[str, Callable[[str], list[float]]], ...] = (
        ("latency of an answer / plain network, measured in turn", lambda n: _ratios(record, n)),
        (
            "training time / plain network, search and compiling included",
            lambda n: [
                train_s(r) / train_s(plain[r["seed"]])
                for r in rows_of(record, n.removesuffix(f" {WITHIN}"))
                if "train_wall_s" in r and r["seed"] in plain
            ],
        ),
    )
    for axis, (words, cost) in zip(axes, costs, strict=True):
        for name, (label, marker, color) in PICTURE.items():
            kind = WITHIN if name.endswith(f" {WITHIN}") else FINAL
            found = rows_of(record, name.removesuffix(f" {WITHIN}"))
            y = 100 * np.array([r[kind]["miou"] for r in found if kind in r])
            x = np.array(cost(name))
            if not len(x) or not len(y):
                continue
            axis.errorbar(
                x.mean(),
                y.mean(),
                xerr=[[x.mean() - x.min()], [x.max() - x.mean()]],
                yerr=[[y.mean() - y.min()], [y.max() - y.mean()]],
                fmt=marker,
                color=color,
                label=label,
            )
        axis.set_xlabel(words)
        axis.grid(alpha=0.3)
    axes[0].set_ylabel("test mIoU, %")
    axes[0].set_xlim(left=0)
    # What was only converted has no place beside training time, so the left half names all.
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside right center", fontsize=8)
    figure.savefig(path, dpi=110, metadata={"Software": None})
