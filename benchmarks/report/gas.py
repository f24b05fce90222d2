"""Tables and picture of GAS."""

from pathlib import Path

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from benchmarks.report.markdown import Record, percent, rows_of, spread, table

ARMS = {
    "gas": "searched, graph module",
    "none": "searched, no module",
    "link": "searched, dense link",
    "shared": "searched, shared cells",
    "random": "random search of equal cost, within 10 % of the latency",
    "hand": "by hand, of about the latency",
}
BETAS = {"search_beta_small": "0.0005", "search_gas": "0.005", "search_beta_large": "0.05"}
"""Of a search."""


def _ms(record: Record, arm: str) -> dict[int, float]:
    """Seed -> measured latency."""
    return {r["seed"]: r["ms"][arm] for r in rows_of(record, "measured") if arm in r["ms"]}


def arms(record: Record) -> str:
    """What each arm is worth, how long an answer takes, what it cost."""
    rows = []
    for arm, words in ARMS.items():
        found = rows_of(record, arm)
        if not found:
            continue
        ms = _ms(record, arm)
        rows.append(
            [
                words,
                percent([r["test_miou"] for r in found]),
                percent([r["val_miou"] for r in found]),
                spread([ms[r["seed"]] for r in found if r["seed"] in ms]),
                spread([r["table_ms"] for r in found if "table_ms" in r]),
                spread([(r["train_macs"] + r.get("search_macs", 0)) / 1e12 for r in found], 1),
                str(len(found)),
            ]
        )
    head = [
        "",
        "test mIoU, %",
        "val mIoU, %",
        "answer, ms, measured",
        "sum of the table, ms",
        "MACs of search and training, 10^12",
        "seeds",
    ]
    return table(head, rows)


def differences(record: Record) -> str:
    """Test mIoU of the graph module's networks less each arm's, seed by seed."""
    ours = {r["seed"]: r["test_miou"] for r in rows_of(record, "gas")}
    rows = []
    for arm, words in ARMS.items():
        pairs = [
            ours[r["seed"]] - r["test_miou"] for r in rows_of(record, arm) if r["seed"] in ours
        ]
        if arm == "gas" or not pairs:
            continue
        each = ", ".join(f"{100 * d:+.1f}" for d in pairs)
        rows.append([words, f"{100 * np.mean(pairs):+.1f}", each])
    return table(["graph module against", "mean, points", "each seed"], rows)


def betas(record: Record) -> str:
    """What beta does to the latency of what is found."""
    rows = []
    for arm, beta in BETAS.items():
        found = rows_of(record, arm)
        ms = _ms(record, "gas" if arm == "search_gas" else arm)
        if found:
            told = [r["table_ms"] for r in found]
            bits = [r["entropy_bits"] for r in found]
            rows.append([beta, spread(list(ms.values())), spread(told), spread(bits)])
    head = ["beta", "answer, ms, measured", "sum of the table, ms", "entropy at the end, bits"]
    return table(head, rows)


def foretold(record: Record) -> str:
    """How well tables foretell."""
    row = record["rows"][0]
    said = [
        ("latency of the slowest network / of the fastest", f"{row['spread']:.2f}"),
        ("Spearman, sum of the table against measured", f"{row['spearman']:.3f}"),
        ("Spearman, MACs and numbers moved against measured", f"{row['spearman_of_macs']:.3f}"),
        ("Spearman, one half of the rounds against the other", f"{row['spearman_of_halves']:.3f}"),
        ("mean error of the table", f"{100 * row['table_error']:.1f} %"),
        ("mean difference between halves of the rounds", f"{100 * row['repeat_error']:.1f} %"),
    ]
    head = [f"{len(row['networks']) - 1} networks, minima of {row['rounds']} rounds", ""]
    return table(head, [list(pair) for pair in said])


def draw(record: Record, path: Path) -> None:
    """Mean IoU against measured latency, every seed a point."""
    figure = Figure(figsize=(6, 4), layout="constrained")
    FigureCanvasAgg(figure)
    axis = figure.subplots()
    for i, (arm, words) in enumerate(ARMS.items()):
        ms = _ms(record, arm)
        found = [r for r in rows_of(record, arm) if r["seed"] in ms]
        x = [ms[r["seed"]] for r in found]
        y = [100 * r["test_miou"] for r in found]
        axis.plot(x, y, "o", color=f"C{i}", label=words)
    axis.set_xlabel("answer at batch 1, ms, measured")
    axis.set_ylabel("test mIoU, %")
    axis.grid(alpha=0.3)
    axis.legend(fontsize=7)
    figure.savefig(path, dpi=100)
