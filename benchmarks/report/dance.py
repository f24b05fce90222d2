"""Tables and picture of DANCE."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from benchmarks.report.markdown import Record, percent, rows_of, table

NETWORKS = {"aspp": "DeepLabV3+ on ResNet-18", "two_path": "BiSeNetV2"}
ARMS = {
    "full": "plain training (the reference)",
    "dance": "after DANCE",
    "eights": "after DANCE, channels by eights",
    "uniform": "all images at one smaller size",
    "dropping": "images dropped with equal probability",
    "shuffled": "DANCE, complexity dealt at random",
    "data": "data alone",
    "network": "network alone",
    "sequence": "data, then network",
    "reversed": "DANCE, simple images count more",
}
SETTINGS = {
    "full": "plain",
    "multi_scale_50": "three sizes from 0.5; half of the channels of the ASPP, by half-time",
    "usual_20": "three sizes from 0.5; a fifth of all channels, by half-time",
    "mild_30_early": "two sizes from 0.75; 30 % of all channels, by a fifth",
    "mild_30_even": "the same, all images counting alike",
}


def _to_full(record: Record, network: str, row: Record, key: str) -> float:
    (full,) = (r for r in rows_of(record, f"{network}_full") if r["seed"] == row["seed"])
    return row[key] / full[key.removeprefix("slim_")]


def _range(values: list[float], digits: int = 2) -> str:
    return f"{np.mean(values):.{digits}f}"


def arms(record: Record) -> str:
    """Network and arm: mIoU of whole images and of each at its own size, MACs of training and of an answer."""
    rows = []
    for network, name in NETWORKS.items():
        for arm, words in ARMS.items():
            found = rows_of(record, f"{network}_{arm}")
            if not found:
                continue
            cells = [percent([r["test_miou"] for r in found])]
            slim = [r for r in found if "slim_macs" in r]
            cells.append(percent([r["test_slim_miou"] for r in slim]) if slim else "")
            cells.append(_range([_to_full(record, network, r, "train_macs") for r in found], 3))
            cells.append(_range([_to_full(record, network, r, "macs") for r in found]))
            own = [_to_full(record, network, r, "slim_macs") for r in slim]
            cells.append(_range(own) if slim else "")
            rows.append([name, words, *cells, str(len(found))])
    head = [
        "from scratch, 6 epochs",
        "",
        "test mIoU, %, whole images",
        "each at its own size",
        "training MACs / plain",
        "MACs of an answer / plain, whole",
        "at its own size",
        "seeds",
    ]
    return table(head, rows)


def groups(record: Record) -> str:
    """Mean IoU on the simple, the middle and the complex third of the test images, whole images."""
    names = ("simple", "middle", "complex")
    rows = []
    for network, name in NETWORKS.items():
        for arm, words in ARMS.items():
            if found := rows_of(record, f"{network}_{arm}"):
                cells = [percent([r["test_by_group"][n] for r in found]) for n in names]
                rows.append([name, words, *cells])
    return table(["test mIoU, %", "", *(f"{n} images" for n in names)], rows)


def _verdict(difference: np.ndarray, noise: float) -> str:
    mean = difference.mean()
    word = "held" if mean >= 0 else "within noise" if mean > -noise else "**not held**"
    return f"{word} ({100 * mean:+.1f})"


def claims(record: Record) -> str:
    """The abstract's three claims: costs as ratios, mIoU against every arm as paired differences over seeds.

    'Held': the mean difference is at least 0; 'within noise': it is above minus one standard deviation of plain
    training over seeds.
    """
    rows = []
    for network, name in NETWORKS.items():
        dance, full = (rows_of(record, f"{network}_{arm}") for arm in ("dance", "full"))
        if len(dance) < 2 or len(full) < 2:
            continue
        noise = float(np.std([r["test_miou"] for r in full], ddof=1))
        for claim, key in (
            ("1: training MACs", "train_macs"),
            ("2: MACs of an answer", "slim_macs"),
        ):
            ratio = np.mean([_to_full(record, network, r, key) for r in dance])
            told = f"{'held' if ratio < 1 else '**not held**'} ({100 * (ratio - 1):+.0f} %)"
            rows.append([name, claim, "plain training", told, ""])
        for arm in ARMS:
            others = {r["seed"]: r for r in rows_of(record, f"{network}_{arm}")}
            pairs = [(d, others[d["seed"]]) for d in dance if d["seed"] in others]
            if arm in ("dance", "eights") or not pairs:
                continue
            whole = np.array([a["test_miou"] - b["test_miou"] for a, b in pairs])
            own = np.array(
                [a["test_slim_miou"] - b.get("test_slim_miou", b["test_miou"]) for a, b in pairs]
            )
            told = [_verdict(x, noise) for x in (whole, own)]
            rows.append([name, "3: mIoU", ARMS[arm], *told])
    head = ["network", "claim", "against", "whole images", "each at its own size"]
    return table(head, rows)


def times(record: Record) -> str:
    """Measured: training by medians of steps, compiling, answers, as ratios to the plain arm beside which they were."""
    rows = []
    for network, name in NETWORKS.items():
        found = {}
        for row in record["rows"]:
            if row.get("network", row["arm"]) == network:
                found |= {
                    a: (x, row["arms"]["full"]) for a, x in row["arms"].items() if a not in found
                }
        for arm, words in ARMS.items():
            if arm not in found:
                continue
            own, plain = found[arm]
            compiling = (
                f"{own['compile_s']:.0f} ({own['programs']})"
                if "compile_s" in own
                else f"({own['programs']})"
            )
            rows.append(
                [
                    name,
                    words,
                    f"{own['train_s']:.0f} ({own['train_s'] / plain['train_s']:.2f})",
                    compiling,
                    f"{own['ms']:.2f} ({own['ms'] / plain['ms']:.2f})",
                    f"{own['slim_ms'] / plain['ms']:.2f}" if "slim_ms" in own else "",
                ]
            )
    head = [
        f"seed 0, CPU cores: {record['cpus']}",
        "",
        "training, s (/ plain)",
        "compiling, s (programs)",
        "answer, ms (/ plain)",
        "at its own size / plain",
    ]
    return table(head, rows)


def settings(record: Record) -> str:
    """How the settings were chosen: mIoU on calib against training MACs."""
    plain = rows_of(record, "full")[0]
    rows = []
    for arm, words in SETTINGS.items():
        for r in rows_of(record, arm):
            own = f"{100 * r['calib_slim_miou']:.1f}" if "calib_slim_miou" in r else ""
            cells = [f"{100 * r['calib_miou']:.1f}", own]
            cells += [f"{r['train_macs'] / plain['train_macs']:.2f}"]
            cells += [f"{r.get('slim_macs', r['macs']) / plain['macs']:.2f}"]
            rows.append([words, *cells])
    head = [
        "calib, seed 100",
        "mIoU, %",
        "each at its own size",
        "training MACs / plain",
        "MACs of an answer / plain",
    ]
    return table(head, rows)


def draw(record: Record, path: Path) -> None:
    """Mean IoU against training MACs and against MACs of an answer, a panel row per network."""
    found = [n for n in NETWORKS if rows_of(record, f"{n}_full")]
    figure = Figure(figsize=(10, 3.6 * len(found)), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(len(found), 2, squeeze=False)
    costs: tuple[tuple[str, str, Callable[[Record], str]], ...] = (
        ("train_macs", "training MACs / plain", lambda r: "train_macs"),
        (
            "macs",
            "MACs of an answer / plain",
            lambda r: "slim_macs" if "slim_macs" in r else "macs",
        ),
    )
    for line, network in zip(axes, found, strict=True):
        for axis, (_, words, key) in zip(line, costs, strict=True):
            for i, arm in enumerate(ARMS):
                rows = rows_of(record, f"{network}_{arm}")
                if not rows:
                    continue
                x = [_to_full(record, network, r, key(r)) for r in rows]
                name = "test_slim_miou" if key(rows[0]) == "slim_macs" else "test_miou"
                y = 100 * np.array([r[name] for r in rows])
                axis.errorbar(
                    np.mean(x),
                    y.mean(),
                    yerr=[[y.mean() - y.min()], [y.max() - y.mean()]],
                    fmt="o",
                    color=f"C{i}",
                    label=ARMS[arm],
                )
            axis.set_xlabel(words)
            axis.set_ylabel("test mIoU, %")
            axis.set_title(NETWORKS[network])
            axis.grid(alpha=0.3)
        line[1].legend(fontsize=7, loc="best")
    figure.savefig(path, dpi=100)
