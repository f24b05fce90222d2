"""Tables and picture of integer training."""

from pathlib import Path

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from benchmarks.report.markdown import Record, percent, rows_of, table

ARMS = {
    "float_adamw": "floats, AdamW and its own schedule",
    "float": "floats, the same schedule of powers of two",
    "float_constant": "floats, with `integer_only`'s norm and gradients of constant size",
    "integer_only": "`integer_only`: everything between image and loss",
    "paper": "`paper`: stem, scores and resizing float",
    "wageubn": "`wageubn`: batch norm with roots; stem, scores and resizing float",
    "without_weights": "`integer_only` without 8-bit weights",
    "without_activations": "-- with activations of 16 bits",
    "without_scores": "-- with float scores",
    "without_errors": "-- without 8-bit errors behind activations",
    "without_conv_errors": "-- without 8-bit-flag errors behind convolutions",
    "without_norm": "-- with float norms (by deviation)",
    "without_gradients": "-- with float gradients (at the rate of floats)",
    "without_updates": "-- with float momentum and weights",
}
STEPS = {
    "float": "float32",
    "simulated": "simulated on floats",
    "integers": "on integer arrays",
    "integer_only": "`integer_only`, simulated",
    "paper": "`paper`, simulated",
    "wageubn": "`wageubn`, simulated",
}
SETTINGS = {
    "chain": "chain of 8 convolutions, 4 maps of 32x32x16",
    "evidence": "DeepLabV3+ on ResNet-18, width 1/4, 8 crops of 96x128",
}


def differences(record: Record, arm: str) -> list[float]:
    """Test mIoU of an arm less that of floats on its schedule, or of `integer_only` whole, seed by seed."""
    base = "integer_only" if arm.startswith("without_") else "float"
    bases = {r["seed"]: r["test_miou"] for r in rows_of(record, base)}
    return [r["test_miou"] - bases[r["seed"]] for r in rows_of(record, arm) if r["seed"] in bases]


def arms(record: Record) -> str:
    """One line per arm."""
    rows = []
    for arm, name in ARMS.items():
        if not (found := rows_of(record, arm)):
            continue
        less = [100 * d for d in differences(record, arm)]
        told = f"{sum(less) / len(less):+.1f}"
        if len(less) > 1:
            told += f" ({min(less):+.1f} to {max(less):+.1f})"
        told = "" if arm == "float" else told
        rows.append([name, percent([r["test_miou"] for r in found]), told, str(len(found))])
    head = [
        "",
        "test mIoU in %, mean of the seeds (lowest to highest)",
        "points more than floats on the schedule; below the presets, than `integer_only`",
        "seeds",
    ]
    return table(head, rows)


def steps(record: Record) -> str:
    """Time and memory of a step."""
    rows = []
    for setting, name in SETTINGS.items():
        for row in rows_of(record, setting):
            for kind, one in row["steps"].items():
                rows.append([
                    name,
                    STEPS[kind],
                    f"{one['median_ms']:.1f} ms",
                    f"{one['ratio_time']:.2f}",
                    f"{one['temp_bytes'] / 1e6:.1f} MB",
                    f"{one['ratio_bytes']:.2f}",
                    f"{one['compile_s']:.0f} s",
                ])  # fmt: skip
    head = ["", "", "step", "/ float32", "temporary memory", "/ float32", "compilation"]
    return table(head, rows)


def draw(record: Record, path: Path) -> None:
    """Differences to floats, a dot for each seed."""
    figure = Figure(figsize=(8, 4.2), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    names = [arm for arm in ARMS if arm != "float" and rows_of(record, arm)]
    for i, arm in enumerate(reversed(names)):
        values = [100 * d for d in differences(record, arm)]
        axes.plot(values, [i] * len(values), "o", color="tab:blue", alpha=0.6)
        axes.plot(sum(values) / len(values), i, "|", color="black", markersize=14)
    axes.axvline(0, color="black", linewidth=0.8)
    axes.axvspan(-1.5, 0, color="tab:green", alpha=0.12, label="1.5 points")
    axes.set_yticks(range(len(names)), reversed(names))
    axes.set_xlabel(
        "points of test mIoU more than floats on the schedule (without_*: than integer_only)"
    )
    axes.legend(loc="lower left")
    figure.savefig(path, dpi=110)
