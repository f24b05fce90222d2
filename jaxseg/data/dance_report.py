"""What data slimming would do to a split, as text, and examples to look at."""

from collections.abc import Sequence

import numpy as np

from jaxseg.data.dance import DataSlimming
from jaxseg.data.dance_scores import Scores

BINS = 10
BAR = 40


def histogram(values: np.ndarray) -> list[str]:
    """`BINS` equal bins from the least to the greatest complexity, one line each, and a bar."""
    counts, edges = np.histogram(values, BINS)
    bars = np.rint(BAR * counts / counts.max()).astype(int)
    return [
        f"  {low:9.4f} .. {high:9.4f} {count:6d} {'#' * bar}".rstrip()
        for low, high, count, bar in zip(edges, edges[1:], counts, bars, strict=False)
    ]


def shares(found: Scores, q: np.ndarray, settings: DataSlimming) -> list[str]:
    """One line per group and one of the whole: images, median q, share of each ratio and of drops, mean weight, cost.

    Args:
        found: the scores. q: their ranks, [N]. settings: what they mean.
    """
    wide = max(len("group"), *(len(group or "all") for group in found.groups))
    heads = "".join(f" {'r=' + format(ratio, 'g'):>7}" for ratio in settings.ratios)
    rows = [f"  {'group':<{wide}} {'images':>7} {'median q':>9}{heads} {'drop':>7} {'gain':>6}"]
    groups = np.asarray(found.groups)
    which = [(group, groups == group) for group in sorted(set(found.groups)) if group]
    for name, here in [*which, ("all", np.ones(len(q), bool))]:
        ratios, own = settings.ratio(q[here]), q[here]
        parts = "".join(f" {100 * np.mean(ratios == ratio):6.1f}%" for ratio in settings.ratios)
        drop = 100 * np.mean(settings.drop(own))
        gain = np.mean(settings.gain(own))
        rows.append(
            f"  {name:<{wide}} {len(own):7d} {np.median(own):9.3f}{parts} {drop:6.1f}% {gain:6.3f}"
        )
    return rows


def render(what: str, found: Scores, q: np.ndarray, settings: DataSlimming) -> str:
    """The whole text: histogram, groups, and pixels per epoch in relation to plain epochs.

    Args:
        what: name of the set and split.
        found, q, settings: as for `shares`.
    """
    cost = settings.cost_frac(q)
    return "\n".join(
        [
            f"{what}: {settings.measure} of {len(q)} images, rank {settings.rank}",
            *histogram(found.values),
            *shares(found, q, settings),
            f"  pixels per epoch in relation to plain epochs: {cost:.3f}",
        ]
    )


def examples(q: np.ndarray, settings: DataSlimming, count: int) -> list[list[int]]:
    """For every ratio, least first, up to `count` images spread evenly over its bin, simplest first."""
    ratios, order = settings.ratio(q), np.argsort(q, kind="stable")
    bins: Sequence[np.ndarray] = [order[ratios[order] == ratio] for ratio in settings.ratios]
    return [
        [int(rows[i * len(rows) // min(count, len(rows))]) for i in range(min(count, len(rows)))]
        for rows in bins
    ]
