"""`python -m benchmarks.itnet_figure [RECORD.json] [PICTURE.png]`: the record of `itnet` as a table and a picture."""

import json
import statistics
import sys
from pathlib import Path
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

Rows = dict[str, list[dict[str, Any]]]


def by_arm(record: dict[str, Any]) -> Rows:
    """Arm -> its rows, one per seed."""
    found: Rows = {}
    for row in record["rows"]:
        found.setdefault(row["arm"], []).append(row)
    return found


def curve(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Per pass: its account, and the mean, least and largest mIoU over seeds."""
    told = []
    for passes in zip(*(row["passes"] for row in rows), strict=True):
        miou = [one["miou"] for one in passes]
        told.append({**passes[0], "miou": statistics.mean(miou), "of": (min(miou), max(miou))})
    return told


def table(rows: Rows) -> str:
    """One line per arm: its last pass, and its first and best ones."""
    lines = [
        "| arm | seeds | params | nodes + edges | MACs | depth | first pass | best pass | last pass (range) |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for arm, each in rows.items():
        percent = lambda x: f"{100 * x:.1f} %"  # noqa: E731
        if "passes" not in each[0]:
            miou = [row["test_miou"] for row in each]
            lines.append(
                f"| {arm} | {len(each)} | {each[0]['params']} | | {each[0]['macs'] / 1e6:.1f} M | | | "
                f"| {percent(statistics.mean(miou))} ({percent(min(miou))} to {percent(max(miou))}) |"
            )
            continue
        told = curve(each)
        first, last, best = told[0], told[-1], max(told, key=lambda one: one["miou"])
        lines.append(
            f"| {arm} | {len(each)} | {last['params']} | {(last['nodes'] + last['edges']) / 1e6:.1f} M "
            f"| {last['macs'] / 1e6:.1f} M | {last['depth']} | {percent(first['miou'])} "
            f"| {best['iteration']}: {percent(best['miou'])} "
            f"| {percent(last['miou'])} ({percent(last['of'][0])} to {percent(last['of'][1])}) |"
        )
    return "\n".join(lines)


def draw(rows: Rows, path: Path) -> None:
    """Test mIoU against passes, MACs and graph size; bars from the least to the largest seed."""
    figure = Figure(figsize=(15, 5), layout="constrained")
    FigureCanvasAgg(figure)
    what = {"passes": "iteration", "MACs of an image": "macs", "nodes + edges of the graph": None}
    for axes, (title, key) in zip(figure.subplots(1, 3, sharey=True), what.items(), strict=True):
        for arm, each in rows.items():
            if "passes" not in each[0]:
                axes.axhline(100 * each[0]["test_miou"], color="grey", ls=":", label=arm)
                continue
            told = curve(each) if key else curve(each)[-1:]
            x = [one[key] if key else one["nodes"] + one["edges"] for one in told]
            y = [100 * one["miou"] for one in told]
            bars = [[100 * abs(one["of"][i] - one["miou"]) for one in told] for i in (0, 1)]
            axes.errorbar(x, y, bars, marker=".", capsize=2, label=arm)
        axes.set(xlabel=title, xscale="linear" if title == "passes" else "log")
        axes.grid(alpha=0.3)
    figure.axes[0].set_ylabel("test mIoU, %")
    figure.axes[0].legend(fontsize=7)
    figure.savefig(path, dpi=100)


if __name__ == "__main__":
    given = sys.argv[1:]
    source, target = given + ["results/itnet.json", "docs/images/itnet.png"][len(given) :]
    found = by_arm(json.loads(Path(source).read_text()))
    print(table(found))
    draw(found, Path(target))
