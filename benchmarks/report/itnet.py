"""Tables and picture of the loop after ItNet."""

import statistics
from pathlib import Path
from typing import Any

from matplotlib import colormaps
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from benchmarks.report.markdown import Record, percent, rows_of, seeds, table

ARMS = {
    "shared_n1": "1 pass",
    "shared_n2": "2 passes",
    "shared_n4": "4 passes",
    "shared_n8": "8 passes",
    "shared_n16": "16 passes",
    "shared_n8_last_only": "8 passes, only the last answer trained",
    "one_norm_n8": "8 passes, one set of batch statistics",
    "unshared_n8_equal_params": "8 different blocks, as many parameters",
    "unshared_n8_equal_params_last_only": "-- only the last answer trained",
    "unshared_n8_equal_graph": "8 different blocks, as large a graph",
    "unshared_n8_equal_graph_last_only": "-- only the last answer trained",
    "feed_forward": "feed-forward FCN on ResNet-18, as many parameters",
}


def _found(record: Record) -> dict[str, list[Record]]:
    return {arm: rows for arm in ARMS if (rows := rows_of(record, arm))}


def curve(rows: list[Record]) -> list[dict[str, Any]]:
    """Per pass: its account, and the mean, least and largest mIoU over seeds."""
    told = []
    for passes in zip(*(row["passes"] for row in rows), strict=True):
        miou = [one["miou"] for one in passes]
        told.append({**passes[0], "miou": statistics.mean(miou), "of": (min(miou), max(miou))})
    return told


def arms(record: Record) -> str:
    """One line per arm: its account, its first, best and last answers."""
    rows = []
    for arm, each in _found(record).items():
        if "passes" not in each[0]:
            cells = [f"{each[0]['params'] / 1e3:.1f} k", "", f"{each[0]['macs'] / 1e6:.0f} M", "", "", ""]  # fmt: skip
            rows.append([ARMS[arm], *cells, percent([r["test_miou"] for r in each])])
            continue
        told = curve(each)
        first, last, best = told[0], told[-1], max(told, key=lambda one: one["miou"])
        rows.append([
            ARMS[arm],
            f"{last['params'] / 1e3:.1f} k",
            f"{(last['nodes'] + last['edges']) / 1e6:.1f} M",
            f"{last['macs'] / 1e6:.0f} M",
            str(last["depth"]),
            f"{100 * first['miou']:.1f}",
            f"{100 * best['miou']:.1f} (pass {best['iteration']})",
            percent([r["passes"][-1]["miou"] for r in each]),
        ])  # fmt: skip
    head = ["parameters", "nodes + edges", "MACs", "depth", "first pass", "best pass", "last pass"]
    return table([f"test mIoU in %, {seeds(record)}", *head], rows)


def passes(record: Record) -> str:
    """What each pass of the network of 8 costs and answers."""
    rows = [
        [
            str(one["iteration"]),
            f"{100 * one['miou']:.1f} ({100 * one['of'][0]:.1f} to {100 * one['of'][1]:.1f})",
            f"{one['macs'] / 1e6:.1f} M",
            str(one["depth"]),
        ]
        for one in curve(rows_of(record, "shared_n8"))
    ]
    return table(["pass", f"test mIoU in %, {seeds(record)}", "MACs", "sequential depth"], rows)


def stopping(record: Record) -> str:
    """The rules against fixed numbers of passes at the same mean, over seeds; one of the confidences of pixels."""
    found = [row["stopping"] for row in rows_of(record, "shared_n8")]
    rows = []
    for cells in zip(*found, strict=True):
        one = cells[0]
        if one["policy"] not in ("mean", "pixels_0.7"):
            continue
        more = [100 * (c["miou"] - c["fixed_miou_at_mean"]) for c in cells]
        slower = [c["ms"] / c["fixed_ms_at_mean"] for c in cells]
        rows.append([
            one["policy"].replace("_", ", t = "),
            f"{statistics.mean(c['mean_passes'] for c in cells):.2f}",
            percent([c["miou"] for c in cells]),
            f"{statistics.mean(more):+.2f} ({min(more):+.2f} to {max(more):+.2f})",
            f"{statistics.mean(c['ms'] for c in cells):.2f} ms",
            f"{statistics.mean(slower):.2f}",
        ])  # fmt: skip
    head = [
        "rule",
        "mean passes",
        "test mIoU in %",
        "more than fixed, points",
        "latency",
        "/ fixed",
    ]
    return table(head, rows)


def scan(record: Record) -> str:
    """The gradient through the loop, four ways."""
    rows = []
    for row in sorted(record["rows"], key=lambda r: r["passes"]):
        for way in ("unrolled", "scan", "unrolled_remat", "scan_remat"):
            x = row[way]
            rows.append([
                f"{row['passes']} passes",
                way.replace("_remat", ", rematerialised"),
                f"{x['median_ms']:.0f} ms",
                f"{x['median_ms'] / row['unrolled']['median_ms']:.2f}",
                f"{x['compile_s']:.1f} s",
                f"{x['temporary_bytes'] / 1e6:.0f} MB",
                str(x["lines"]),
            ])  # fmt: skip
    head = ["", "", "gradient", "/ unrolled", "compilation", "temporary memory", "lines of program"]
    return table(head, rows)


def camvid(record: Record) -> str:
    """First, best and last pass of each protocol and split."""
    rows = []
    for row in record["rows"]:
        for split in ("val", "test"):
            if f"{split}_passes" in row:
                each = [one["miou"] for one in row[f"{split}_passes"]]
                best = max(range(len(each)), key=each.__getitem__)
                rows.append([
                    f"{row['arm']}, {split}",
                    f"{100 * each[0]:.1f}",
                    f"{100 * each[best]:.1f} (pass {best + 1})",
                    f"{100 * each[-1]:.1f}",
                    str(row["steps"]),
                    f"{row['train_wall_s'] / 60:.0f} min",
                ])  # fmt: skip
    return table(["mIoU in %", "first pass", "best pass", "last pass", "steps", "time"], rows)


def draw(record: Record, path: Path) -> None:
    """Test mIoU against passes, MACs and graph size; bars from the least to the largest seed."""
    figure = Figure(figsize=(15, 6), layout="constrained")
    FigureCanvasAgg(figure)
    what = {"passes": "iteration", "MACs of an image, millions": "macs"}
    what["nodes + edges of the graph, millions; last pass"] = None
    colors = dict(zip(_found(record), colormaps["tab20"].colors, strict=False))
    for axes, (title, key) in zip(figure.subplots(1, 3, sharey=True), what.items(), strict=True):
        for arm, each in _found(record).items():
            if "passes" not in each[0]:
                level = statistics.mean(row["test_miou"] for row in each)
                axes.axhline(100 * level, color="grey", ls=":", label=ARMS[arm])
                continue
            told = curve(each) if key else curve(each)[-1:]
            x = [one[key] if key else one["nodes"] + one["edges"] for one in told]
            x = [n / 1e6 for n in x] if key != "iteration" else x
            y = [100 * one["miou"] for one in told]
            bars = [[100 * abs(one["of"][i] - one["miou"]) for one in told] for i in (0, 1)]
            style = {"label": ARMS[arm].replace("--", "the same,"), "color": colors[arm]}
            axes.errorbar(x, y, bars, marker=".", capsize=2, **style)
        axes.set_xlabel(title)
        axes.grid(alpha=0.3)
    figure.axes[0].set_ylabel("test mIoU, %")
    handles, labels = figure.axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=4, fontsize=8)
    figure.savefig(path, dpi=100, metadata={"Software": None})
