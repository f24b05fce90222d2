"""Tables and picture of MESS."""

from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from benchmarks.report.markdown import Record, percent, rows_of, seeds, table

STAGES = {
    "plain": "(i) the plain network",
    "all_at_once": "(ii) all exits at once, one sum",
    "round_robin": "(iii) one exit a step (eq. 2)",
    "frozen_plain": "(iv) heads on the frozen (i)",
    "frozen_round_robin": "(v) heads on the frozen (iii)",
    "frozen_all_at_once": "ours: heads on the frozen (ii)",
    "going_on": "ours: the exits of (ii) go on as heads",
}


def _exits(row: Record) -> dict[str, float]:
    return row["miou"] if "miou" in row else {"final": row["test_miou"]}


def mess_stages(record: Record) -> str:
    """Table 5: test mIoU of every exit."""
    names = list(_exits(rows_of(record, "round_robin")[0]))
    rows = []
    for arm, words in STAGES.items():
        found = [_exits(r) for r in rows_of(record, arm)]
        if found:
            cells = [percent([f[n] for f in found]) if n in found[0] else "" for n in names]
            rows.append([words, *cells])
    heads = [f"exit {n.replace('_', ' ')}" if n != "final" else "final answer" for n in names]
    return table([f"test mIoU in %, {seeds(record)}", *heads], rows)


def mess_losses(record: Record) -> str:
    """Table 6, and the paired differences to PFD."""
    names = [n for n in _exits(rows_of(record, "pfd")[0]) if n != "final"]
    best = {r["seed"]: _exits(r) for r in rows_of(record, "pfd")}
    rows = []
    for arm in ("ce", "kd", "ce+kd", "pfd"):
        found = rows_of(record, arm)
        cells = []
        for n in names:
            cell = percent([_exits(r)[n] for r in found])
            if arm != "pfd":
                less = [
                    100 * (best[r["seed"]][n] - _exits(r)[n]) for r in found if r["seed"] in best
                ]
                cell += (
                    f"; PFD {np.mean(less):+.2f} ({sum(x > 0 for x in less)} of {len(less)} seeds)"
                )
            cells.append(cell)
        rows.append([arm.upper(), *cells])
    heads = [f"exit {n.replace('_', ' ')}" for n in names]
    return table([f"test mIoU in %, {seeds(record)}", *heads], rows)


def gain(record: Record, arm: str) -> str:
    """What exits buy, with controls: test mIoU and measured latency as a ratio to the plain network."""
    gains = rows_of(record, arm)
    rows = [["plain network", percent([g["plain"]["test"] for g in gains]), "1"]]

    def add(words: str, parts: list[Record | None], key: str = "test_miou") -> None:
        parts = [p for p in parts if p]
        if parts:
            ratios = [p["ratio_measured"] for p in parts]
            ratio = f"{np.mean(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"
            words += f" (of {len(parts)} seeds)" if len(parts) < len(gains) else ""
            rows.append([words, percent([p[key] for p in parts]), ratio])

    add("final answer of the network with exits", [
        {"test_miou": g["final_test_miou"], "ratio_measured": 1.0} for g in gains
    ])  # fmt: skip
    for points in ("0.1", "1.0"):
        found = [g[points] for g in gains if "input" in g[points]]
        allowed = f"{points} points below plain on calib"
        add(f"input-dependent, {allowed}", [f["input"] for f in found])
        for key, words in {"random": "random routing", "oracle": "oracle routing"}.items():
            if found:
                values = [f[f"{key}_test_miou"] for f in found]
                few = f" (of {len(found)} seeds)" if len(found) < len(gains) else ""
                rows.append([f"-- {words}, same shares{few}", percent(values), "as above"])
        add("-- best static exit that is as quick", [f["static"] for f in found])
        add(f"quickest static exit, {allowed}", [f["cheapest_static"] for f in found])
    for name in _narrow(gains):
        words = f"plain network of width {name.split('_')[-1]}, from scratch"
        add(words, [g[name] for g in gains if name in g])
        along = rows_of(record, name.replace("narrow_", "narrow_sum_"))
        if along and arm != "gain":
            values = percent([r["test_miou"] for r in along])
            rows.append(["-- its exits learning along, final answer", values, "as above"])
    head = [f"toy_street, {seeds(record)}", "test mIoU in %", "latency / plain, measured in turn"]
    return table(head, rows)


def _narrow(gains: list[Record]) -> list[str]:
    return sorted({k for g in gains for k in g if "narrow_" in k}, reverse=True)


def mess_ways(record: Record) -> str:
    """Ratios to the final answer alone."""
    row = rows_of(record, "batches")[0]
    rows = []
    for name in row["batch_1"]["ratio_to_final_only"]:
        cells = [f"{row[f'batch_{n}']['ratio_to_final_only'][name]:.2f}" for n in (1, 8)]
        rows.append([name.replace("_", " "), *cells])
    share = f"{row['macs_share_first_exit']:.2f}"
    rows.append(["share of MACs up to the first exit, lightest head", share, share])
    return table(["time / final answer only", "batch 1", "batch 8"], rows)


def mess_cores(record: Record) -> str:
    """One checkpoint on one core and on two."""
    row = rows_of(record, "cores")[0]
    rows = []
    for count in (1, 2):
        found = row[f"cores_{count}"]
        chosen = found["chosen"]
        rows.append([
            f"{count} core{'s' if count > 1 else ''}",
            f"{chosen['setting']}: {'; '.join(chosen['heads'])}",
            f"{found['ratio_promised']:.3f}",
            f"{found['ratio_measured']:.3f}",
            f"{100 * found['off_by']:+.1f} %",
        ])  # fmt: skip
    head = ["deployed for", "chosen", "promised / final only", "measured", "off by"]
    return table(head, rows)


def scan_blocks(record: Record) -> str:
    """Time, compilation and memory of equal blocks."""
    rows = []
    for row in sorted(record["rows"], key=lambda r: int(r["arm"].split("_")[0])):
        for way in ("written_out", "scan", "scan_remat"):
            x = row[way]
            numbers = [
                f"{x['step_ms']:.0f} ms",
                f"{x['compile_s']:.1f} s",
                f"{x['temp_mb']:.0f} MB",
            ]
            rows.append([row["arm"].replace("_", " "), way.replace("_", " "), *numbers])
    return table(["", "", "step", "compilation", "temporary memory"], rows)


GAINS = {
    "gain": "the paper's two stages",
    "sum_gain": "all exits at once, going on",
    "deep_sum_gain": "the same, ResNet-34",
}
"""Arms of `mess` that search: words."""


def draw(record: Record, path: Path) -> None:
    """MIoU on test against measured latency (ratio to the plain network), every seed a point of its own."""
    arms = [arm for arm in GAINS if rows_of(record, arm)]
    figure = Figure(figsize=(4.4 * len(arms) + 1, 4.6), layout="constrained")
    FigureCanvasAgg(figure)
    for axes, arm in zip(
        figure.subplots(1, len(arms), sharey=True, squeeze=False)[0], arms, strict=True
    ):
        _draw(axes, rows_of(record, arm))
        axes.set_title(GAINS[arm], fontsize="medium")
        axes.set_xlim(left=0)
        axes.grid(alpha=0.3)
        axes.set_xlabel("mean latency per image / plain network")
    figure.axes[0].set_ylabel("test mIoU in %")
    figure.axes[0].legend(loc="lower right", fontsize="small")
    figure.savefig(path, dpi=110, metadata={"Software": None})


def _draw(axes: Axes, gains: list[Record]) -> None:
    def points(label: str, pairs: list[tuple[float, float]], marker: str, color: str) -> None:
        if pairs:
            x, y = np.array(pairs).T
            axes.plot(x, 100 * y, marker, color=color, label=label, alpha=0.85)

    points("plain", [(1.0, g["plain"]["test"]) for g in gains], "s", "black")
    kinds = {
        "input": ("input-dependent", "o", "crimson"),
        "static": ("best static exit as quick", "^", "tab:blue"),
        "cheapest_static": ("quickest static exit as good", "v", "tab:cyan"),
    }
    for kind, (label, marker, color) in kinds.items():
        found = [g[p][kind] for g in gains for p in ("0.1", "1.0") if kind in g[p]]
        points(label, [(f["ratio_measured"], f["test_miou"]) for f in found], marker, color)
    routed = [g[p] for g in gains for p in ("0.1", "1.0") if "input" in g[p]]
    for key, marker, color in (("random", "x", "gray"), ("oracle", "*", "goldenrod")):
        pairs = [(f["input"]["ratio_measured"], f[f"{key}_test_miou"]) for f in routed]
        points(f"{key} routing, same shares", pairs, marker, color)
    pairs = [
        (g[k]["ratio_measured"], g[k]["test_miou"]) for g in gains for k in _narrow(gains) if k in g
    ]
    points("narrower, from scratch", pairs, "D", "tab:green")
