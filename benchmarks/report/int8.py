"""Tables of int8 inference."""

from benchmarks import targets
from benchmarks.report.markdown import Record, percent, rows_of, table

ARMS = {
    "float": "floats (AdamW, 600 steps)",
    "calibrated_minmax": "int8, calibrated: all values (`minmax`)",
    "calibrated_percentile": "int8, calibrated: 99.99 % of them (`percentile`)",
    "calibrated_mse": "int8, calibrated: least squared error (`mse`, the default)",
    "fine_tuned": "floats, 200 steps more as `integer_only`, then int8 exactly",
    "integer_only": "`integer_only` from scratch, 600 steps, then int8 exactly",
}
NETWORKS = {
    "resnet18": "DeepLabV3+ on ResNet-18",
    "effnetlite0": "separable DeepLabV3+ on EfficientNet-Lite0",
    "itnet": "ItNet, 8 passes",
}
NAMES = {"jax infer": "jaxseg", "torch infer": "torch"}


def accuracy(record: Record) -> str:
    """Arm, mIoU, difference to what it was made of, bytes."""
    rows = []
    for arm, name in ARMS.items():
        if not (found := rows_of(record, arm)):
            continue
        less = [100 * (r["test_miou"] - r["trained_test_miou"]) for r in found if "bytes" in r]
        told = (
            f"{sum(less) / len(less):+.2f} ({min(less):+.2f} to {max(less):+.2f})" if less else ""
        )
        size = found[0]["bytes"] / found[0]["trained_bytes"] if less else None
        rows.append(
            [
                name,
                percent([r["test_miou"] for r in found]),
                told,
                f"{size:.3f}" if size else "",
                str(len(found)),
            ]
        )
    head = ["toy_street", "test mIoU, %", "less what it was made of", "bytes / float32", "seeds"]
    return table(head, rows)


def camvid(record: Record) -> str:
    """The CamVid model, by how it was calibrated."""
    (row,) = (r for r in rows_of(record, "camvid") if "bytes" in r)
    names = {"float": "floats", "minmax": "`minmax`", "percentile": "`percentile`", "mse": "`mse`"}
    cells = [f"{100 * row[f'val_miou_{key}']:.2f}" for key in names]
    return table(["CamVid, val mIoU, %", *names.values()], [["EfficientNet-Lite0", *cells]])


DRIVES = {
    "drives_calibrated": "floats (AdamW, 450 steps), then int8, calibrated (`mse`)",
    "drives_fine_tuned": "those floats, 100 steps more as `integer_only`, then int8 exactly",
    "drives_integer_only": "`integer_only` from scratch, 450 steps, then int8 exactly",
}


def drives(record: Record) -> str:
    """Ways to int8 on a drive that no run has seen: mIoU of int8 and of what it was made of, bytes, training time."""
    rows = []
    for arm, name in DRIVES.items():
        (row,) = (r for r in rows_of(record, arm) if "bytes" in r)
        size = f"{row['bytes'] / row['trained_bytes']:.3f}"
        scores = [f"{100 * row[key]:.2f}" for key in ("trained_test_miou", "test_miou")]
        rows.append([name, *scores, size, f"{row['train_wall_s'] / 60:.1f}"])
    head = ["camvid_drives, test mIoU, %", "before", "int8", "bytes / float32", "training, min"]
    return table(head, rows)


def speed(record: Record) -> str:
    """Network and size, milliseconds by numbers, how much quicker, floor and aim."""
    rows = []
    for row in record["rows"]:
        name = row["arm"].rsplit("_", 1)[0]
        height, width = row["shape"]
        ms = row["median_ms"]
        torch = [
            min((v for k, v in ms.items() if k.startswith("torch") and k.endswith(d)), default=None)
            for d in ("float32", "bfloat16")
        ]
        floor, aim = targets.INT8[name]
        met = (
            "aim met"
            if row["quicker"] >= aim
            else "met"
            if row["quicker"] >= floor
            else "**missed**"
        )
        rows.append(
            [
                f"{NETWORKS[name]}, {width}x{height}",
                f"{row['macs'] / 1e9:.1f}",
                *(f"{ms[f'jax infer {d}']:.1f}" for d in ("int8", "float32", "bfloat16")),
                *("" if t is None else f"{t:.1f}" for t in torch),
                f"{row['quicker_than_own']:.2f}",
                f"{row['quicker']:.2f}",
                f"{floor}, {met}",
            ]
        )
    head = [
        "batch 1, ms",
        "GMACs",
        "int8",
        "float32",
        "bfloat16",
        "torch float32",
        "torch bfloat16",
    ]
    return table([*head, "than our fastest", "than the fastest", "floor"], rows)
