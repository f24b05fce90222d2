"""Table of BFCN."""

from benchmarks.report.markdown import Record, percent, rows_of, table

ARMS = {
    "float": "floats",
    "w8a8_direct": "8/8, directly",
    "w8a8": "8/8, by the ladder",
    "w4a4_direct": "4/4, directly",
    "w4a4": "4/4, by the ladder",
    "w2a2_direct": "2/2, directly",
    "w2a2": "2/2, by the ladder",
    "w1a2_direct": "1/2, directly",
    "w1a2": "1/2, by the ladder",
}


def arms(record: Record) -> str:
    """One line per arm: mIoU, points less than floats seed by seed, counts."""
    floats = {r["seed"]: r["test_miou"] for r in rows_of(record, "float")}
    rows = []
    for arm, words in ARMS.items():
        found = rows_of(record, arm)
        if not found:
            continue
        less = [100 * (r["test_miou"] - floats[r["seed"]]) for r in found if r["seed"] in floats]
        rows.append(
            [
                words,
                percent([r["test_miou"] for r in found]),
                "" if arm == "float" or not less else f"{sum(less) / len(less):+.1f}",
                f"{100 * found[0]['few_share']:.0f} %",
                f"{found[0]['speed_up']:.1f}",
                str(len(found)),
            ]
        )
    head = [
        "kernels/activations, bits",
        "test mIoU, %",
        "points to floats",
        "MACs of few bits",
        "operations, floats / this (32-bit words, counted)",
        "seeds",
    ]
    return table(head, rows)
