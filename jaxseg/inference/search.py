"""Every way to deploy a multi-exit network, scored from predictions made once (MESS, 2106.03527, section 3.5).

A deployment is a chain of heads: those before the last one are gates, which let an image go where it is confident
enough, and the last one answers whatever comes so far. From what every head did to every image of a split (which pixels
were right, and how sure it was) the mIoU of any chain follows without running anything: the counts of an image are
those of the head that it leaves at. Chains with two gates are a product of matrices, images being the inner dimension.

Numpy only; nothing here knows a network or a device.
"""

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from jaxseg.errors import UserError

FINAL, BUDGETED, ANYTIME, INPUT = SETTINGS = ("final", "budgeted", "anytime", "input")
"""The original network; one that ends earlier; all answers in turn; each image as far as it needs (table 1)."""
MAX_GATES = 2
CHUNK = 1 << 22
"""Floating-point numbers in a block of scores."""


@dataclass(frozen=True)
class Evidence:
    """What H heads did to M images of a split, early heads in the order of the backbone, the final one last.

    hit, union: int64 [H, M, K], pixels of class k that were right, and that are k in label or prediction.
    confidence: float32 [H - 1, P, M], of each image under each threshold of pixels.
    pixel:      P thresholds of pixels (one that means nothing where confidence is a mean).
    point:      H numbers: heads behind the same block share one; rising.
    """

    hit: np.ndarray
    union: np.ndarray
    confidence: np.ndarray
    pixel: tuple[float, ...]
    point: tuple[int, ...]

    def __post_init__(self):
        if self.hit.shape[1] == 0:
            raise UserError("images to search on", got="none", expected="a split with images")

    def miou(self, head: int) -> float:
        """Of one head on all images."""
        return float(_miou(self.hit[head].sum(0), self.union[head].sum(0)))


@dataclass(frozen=True)
class Deployment:
    """One way to deploy, and what the search expects of it.

    setting: see `SETTINGS`.
    heads:   the chain, indices into the evidence; the last one answers what is left.
    pixel, image: thresholds of the gates, one each; empty but for 'input'.
    miou:    in [0, 1], on the split of the evidence; of an any-time network that of its last answer.
    cost:    mean per image, in the unit of the costs given.
    taken:   share of images that leave at each head of the chain.
    """

    setting: str
    heads: tuple[int, ...]
    pixel: tuple[float, ...]
    image: tuple[float, ...]
    miou: float
    cost: float
    taken: tuple[float, ...]


PathCost = Callable[[Sequence[int], int, str], float]
"""(chain, position in it, setting) -> cost of an image that leaves there."""


@dataclass(frozen=True)
class _Family:
    """All chains through the same heads' points: scores [n], and how entry i of them is told."""

    setting: str
    miou: np.ndarray
    cost: np.ndarray
    tell: Callable[[int], tuple[tuple[int, ...], tuple[float, ...], tuple[float, ...]]]


class Search:
    """Scores everything once, on making; then answers questions.

    count:   configurations scored.
    by_gates: number of gates -> how many of them.
    """

    def __init__(
        self,
        evidence: Evidence,
        path_cost: PathCost,
        *,
        image: Sequence[float],
        max_gates: int = MAX_GATES,
        settings: Sequence[str] = SETTINGS,
    ):
        """Args: what heads did; what paths cost; thresholds of images to try; gates in a chain, at most 2; settings."""
        if not 0 <= max_gates <= MAX_GATES:
            raise UserError("gates in a chain", got=max_gates, expected=f"0 to {MAX_GATES}")
        self._evidence, self._path_cost = evidence, path_cost
        self._image = tuple(float(x) for x in image)
        self._families = [f for s in settings for f in self._of(s, max_gates)]
        self.count = sum(len(f.miou) for f in self._families)
        self.by_gates: dict[int, int] = {}
        for family in self._families:
            gates = len(family.tell(0)[1])
            self.by_gates[gates] = self.by_gates.get(gates, 0) + len(family.miou)

    def best(
        self,
        *,
        max_cost: float = np.inf,
        min_miou: float = -np.inf,
    ) -> Deployment:
        """The cheapest that is right enough, or, if only the cost is limited, the best that is cheap enough.

        Args:
            max_cost: in the unit of the costs given. min_miou: in [0, 1].

        Raises:
            UserError: there is none; the closest one is named.
        """
        found: list[tuple[float, float, _Family, int]] = []
        for family in self._families:
            fits = np.flatnonzero((family.cost <= max_cost) & (family.miou >= min_miou))
            if len(fits):
                keys = (-family.miou[fits], family.cost[fits])
                order = np.lexsort(keys if np.isfinite(min_miou) else keys[::-1])
                i = int(fits[order[0]])
                found.append((float(family.miou[i]), float(family.cost[i]), family, i))
        if not found:
            near = self._closest(max_cost, min_miou)
            limits = [f"cost <= {max_cost:.6g}"] if np.isfinite(max_cost) else []
            limits += [f"mIoU >= {min_miou:.4f}"] if np.isfinite(min_miou) else []
            raise UserError(
                "no configuration fits",
                got=" and ".join(limits),
                expected=f"such as the closest one: mIoU {near.miou:.4f} at cost {near.cost:.6g} "
                f"({near.setting}, heads {list(near.heads)})",
            )
        by_cost, by_miou = (lambda x: (x[1], -x[0])), (lambda x: (-x[0], x[1]))
        _, _, family, i = min(found, key=by_cost if np.isfinite(min_miou) else by_miou)
        return self._told(family, i)

    def pareto(self) -> list[Deployment]:
        """Those that nothing beats in both mIoU and cost, cheapest first."""
        kept: list[tuple[float, float, _Family, int]] = []
        # Any-time answers cost all of their heads: a setting of its own, for another question.
        others = [f for f in self._families if f.setting != ANYTIME]
        for family in others or self._families:
            for i in _front(family.cost, family.miou):
                kept.append((float(family.cost[i]), float(family.miou[i]), family, int(i)))
        cost, miou = (np.array([x[j] for x in kept]) for j in (0, 1))
        return [self._told(*kept[i][2:]) for i in _front(cost, miou)]

    def _closest(self, max_cost: float, min_miou: float) -> Deployment:
        """What comes nearest: of two limits the cost gives way; of one alone the best there is."""
        by_cost = [(float(f.cost.min()), f, int(f.cost.argmin())) for f in self._families]
        if not np.isfinite(min_miou):
            return self._told(*min(by_cost, key=lambda x: x[0])[1:])
        by_miou = [(float(f.miou.max()), f, int(f.miou.argmax())) for f in self._families]
        most = max(by_miou, key=lambda x: x[0])
        if most[0] < min_miou or not np.isfinite(max_cost):
            return self._told(*most[1:])
        return self.best(min_miou=min_miou)

    def _told(self, family: _Family, index: int) -> Deployment:
        heads, pixel, image = family.tell(index)
        return Deployment(
            family.setting,
            heads,
            pixel,
            image,
            float(family.miou[index]),
            float(family.cost[index]),
            tuple(float(x) for x in self._taken(heads, pixel, image)),
        )

    def _taken(
        self, heads: Sequence[int], pixel: Sequence[float], image: Sequence[float]
    ) -> list[float]:
        """Shares of images by the head where they leave; all at the last one where there are no thresholds."""
        evidence = self._evidence
        left = np.ones(evidence.hit.shape[1], bool)
        shares = []
        for head, p, t in zip(heads, pixel, image, strict=False):
            goes = left & (evidence.confidence[head, evidence.pixel.index(p)] >= t)
            shares.append(goes.mean())
            left &= ~goes
        return [*shares, *[0.0] * (len(heads) - len(shares) - 1), left.mean()]

    # --- Families ---

    def _of(self, setting: str, max_gates: int) -> Iterator[_Family]:
        evidence = self._evidence
        final = len(evidence.point) - 1
        points = [
            [h for h in range(final) if evidence.point[h] == p]
            for p in sorted(set(evidence.point[:-1]))
        ]
        if setting == FINAL:
            yield self._without_gates(setting, [(final,)])
        elif setting == BUDGETED and final:
            yield self._without_gates(setting, [(h,) for h in range(final)])
        elif setting == ANYTIME and final:
            chains = []
            for size in range(1, min(max_gates, len(points)) + 1):
                for some in itertools.combinations(points, size):
                    chains += [(*chain, final) for chain in itertools.product(*some)]
            yield self._without_gates(setting, chains)
        elif setting == INPUT:
            for gates in range(1, max_gates + 1):
                for some in itertools.combinations(points, gates):
                    after = [p for p in points if p[0] > some[-1][-1]]
                    yield self._with_gates(some, [final])
                    for last in after:
                        yield self._with_gates(some, last)

    def _without_gates(self, setting: str, chains: list[tuple[int, ...]]) -> _Family:
        miou = {h: self._evidence.miou(h) for h in {chain[-1] for chain in chains}}
        return _Family(
            setting,
            np.array([miou[chain[-1]] for chain in chains]),
            np.array([self._path_cost(c, len(c) - 1, setting) for c in chains]),
            lambda i: (chains[i], (), ()),
        )

    def _gates(self, heads: Sequence[int]) -> tuple[np.ndarray, list[tuple[int, float, float]]]:
        """All gates of some heads: leaves bool [G, M], and (head, pixel, image) of each."""
        evidence, image = self._evidence, np.array(self._image, np.float32)
        leaves = evidence.confidence[list(heads), :, None, :] >= image[:, None]
        told = list(itertools.product(heads, evidence.pixel, self._image))
        return leaves.reshape(len(told), -1), told

    def _with_gates(self, points: Sequence[Sequence[int]], last: Sequence[int]) -> _Family:
        """Every gate of the points, every head of `last` to end with.

        The two sums over images that a chain needs are linear in what is known of its second part, image by image.
        """
        evidence = self._evidence
        counts = np.concatenate([evidence.hit, evidence.union], axis=2).astype(np.float64)
        images, width = counts.shape[1:]
        # What an image adds once it has come so far: [options, M, 2K], and its path as (heads, pixels, images).
        after = counts[list(last)]
        told_after: list[tuple[tuple[int, ...], tuple[float, ...], tuple[float, ...]]] = [
            ((h,), (), ()) for h in last
        ]
        leaves_after = np.zeros((len(last), 0, images))
        for heads in reversed(points[1:]):
            leaves, told = self._gates(heads)
            own = counts[[h for h, _, _ in told]]
            goes = leaves[:, None, :, None]
            after = np.where(goes, own[:, None], after[None]).reshape(-1, images, width)
            leaves_after = np.repeat(leaves[:, None, None].astype(np.float64), len(last), axis=1)
            leaves_after = leaves_after.reshape(-1, 1, images)
            told_after = [
                ((h, *t[0]), (p, *t[1]), (i, *t[2]))
                for (h, p, i), t in itertools.product(told, told_after)
            ]
        leaves, told = self._gates(points[0])
        left = leaves.astype(np.float64)
        own = np.einsum("gm,gmk->gk", left, counts[[h for h, _, _ in told]])
        stay = 1.0 - left
        size = len(told_after)
        miou, cost = np.empty((len(told), size)), np.empty((len(told), size))
        table = after.transpose(1, 0, 2).reshape(images, size * width)
        # Shares that leave at each place, and what each place of each chain costs.
        first = left.mean(axis=1)
        second = stay @ leaves_after[:, 0].T / images if leaves_after.shape[1] else None
        paths = self._paths(points[0], told_after)
        row = {head: n for n, head in enumerate(points[0])}
        which = np.array([row[h] for h, _, _ in told])
        step = max(1, CHUNK // (size * width))
        for begin in range(0, len(told), step):
            part = slice(begin, begin + step)
            total = own[part, None] + (stay[part] @ table).reshape(-1, size, width)
            miou[part] = _miou(total[..., : width // 2], total[..., width // 2 :])
            path = paths[which[part]]  # [g, size, places]
            share = first[part, None]
            mean = share * path[..., 0]
            if second is None:
                mean = mean + (1 - share) * path[..., 1]
            else:
                mean = (
                    mean + second[part] * path[..., 1] + (1 - share - second[part]) * path[..., 2]
                )
            cost[part] = mean

        def tell(index: int) -> tuple[tuple[int, ...], tuple[float, ...], tuple[float, ...]]:
            (head, pixel, image), rest = told[index // size], told_after[index % size]
            return (head, *rest[0]), (pixel, *rest[1]), (image, *rest[2])

        return _Family(INPUT, miou.ravel(), cost.ravel(), tell)

    def _paths(self, firsts: Sequence[int], told_after: Sequence[tuple]) -> np.ndarray:
        """Cost of leaving at each place of each chain: [first heads, chains after, places]."""
        known: dict[tuple[int, ...], list[float]] = {}
        rows = []
        for first in firsts:
            row = []
            for heads, _, _ in told_after:
                chain = (first, *heads)
                if chain not in known:
                    known[chain] = [self._path_cost(chain, i, INPUT) for i in range(len(chain))]
                row.append(known[chain])
            rows.append(row)
        return np.array(rows)


def _miou(hit: np.ndarray, union: np.ndarray) -> np.ndarray:
    """Mean over the last axis of hit / union; classes without a pixel are left out."""
    known = union > 0
    iou = np.divide(hit, union, out=np.zeros(hit.shape), where=known)
    return iou.sum(axis=-1) / np.maximum(known.sum(axis=-1), 1)


def _front(cost: np.ndarray, miou: np.ndarray) -> np.ndarray:
    """Indices of those that no other beats in both, cheapest first."""
    order = np.lexsort((-miou, cost))
    best = np.maximum.accumulate(miou[order])
    better = np.concatenate([[True], miou[order][1:] > best[:-1]])
    return order[better]
