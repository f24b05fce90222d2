"""After GAS (Lin et al., 1909.06793): the network that is searched, all candidates on all edges of all cells.

Its variables hold, beside those of its blocks, the entry 'search': architecture parameters (log-alpha), one set per
cell, and the weights of the module that guides them along adjacent cells. In training whoever applies it samples how
much of every candidate there is and passes that as the collection 'mixing'; else the network is the one that would be
derived now, every edge its best candidate.

`choices` of a mixed cell say (guide, sharing), see `GUIDES` and `SHARING`.
"""

from collections.abc import Sequence
from dataclasses import replace

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from jaxseg.arch import Arch, BlockSpec, block_name
from jaxseg.errors import UserError, unknown_name
from jaxseg.layers.conv import ConvOp, plain_conv2d
from jaxseg.models import segmenter
from jaxseg.models.backbones.gas import (
    CANDIDATES,
    CELL,
    EDGES,
    GUIDES,
    IDENTITY,
    LINK,
    MIXED,
    NONE,
    SHARED,
    ZERO,
    Genotype,
    nodes_of,
    num_widths,
)
from jaxseg.models.block import Block
from jaxseg.models.mixed_cell import MixedCell
from jaxseg.types import Array

FAMILY = "gas"
SEARCH, MIXING = "search", "mixing"
ALPHA = "log_alpha"
P, Q = len(EDGES), len(CANDIDATES)
HIDDEN = 64
"""d of the graph module (recalled)."""

GAMMA = 0.5
"""How much of the module's result is added to a cell's parameters (recalled)."""

LEFT = tuple(i for i, c in enumerate(CANDIDATES) if c != ZERO)
"""Candidates that give a map."""


def is_supernet(arch: Arch) -> bool:
    """Whether `arch` is still to be searched."""
    return arch.family == FAMILY


def blocks(arch: Arch) -> tuple[BlockSpec, ...]:
    """As `segmenter.blocks`.

    Raises:
        UserError: a block that is neither stem nor mixed cell, or cells that are guided in different ways.
    """
    specs = segmenter.blocks(arch)
    kinds = [b.kind for b in arch.backbone.blocks]
    if kinds != ["gas_stem"] + [MIXED] * (len(kinds) - 1) or len(kinds) < 2:
        raise UserError("blocks of a network to search", got=", ".join(kinds), expected="cells")
    guide_of(arch)
    return specs


def guide_of(arch: Arch) -> tuple[str, str]:
    """(guide, sharing) of all cells.

    Raises:
        UserError: there is more than one.
    """
    found = {b.choices for b in arch.backbone.blocks if b.kind == MIXED}
    if len(found) != 1:
        raise UserError("choices of cells to search", got=sorted(found), expected="the same of all")
    guide, sharing = found.pop()
    return guide, sharing


def num_cells(arch: Arch) -> int:
    """K."""
    return len(arch.backbone.blocks) - 1


# --- Architecture parameters ---


def initial(arch: Arch, key: Array) -> dict[str, Array]:
    """Random parameters: log-alpha around 1 (SNAS code), weights of the guide with variance 1, see `_scaled`.

    Returns:
        log_alpha float32 [K, P, Q], of shared cells [2, P, Q] (normal, reduction); of the graph w1, w2 [K-1, Q, Q],
        phi1 [K-1, Q, d], w_g [K-1, d, d], phi2 [K-1, d, Q]; of the link w [K-1, P Q, P Q].
    """
    guide, sharing = guide_of(arch)
    cells = num_cells(arch)
    rows = 2 if sharing == SHARED else cells
    shapes: dict[str, tuple[int, ...]] = {}
    if guide == LINK:
        shapes = {"w": (P * Q, P * Q)}
    elif guide == IDENTITY:
        shapes = {"phi1": (1, HIDDEN), "w_g": (HIDDEN, HIDDEN), "phi2": (HIDDEN, 1)}
    elif guide != NONE:
        shapes = {"w1": (Q, Q), "w2": (Q, Q), "phi1": (Q, HIDDEN)}
        shapes |= {"w_g": (HIDDEN, HIDDEN), "phi2": (HIDDEN, Q)}
    first, *keys = jax.random.split(key, 1 + len(shapes))
    made = {ALPHA: 1.0 + 0.01 * jax.random.normal(first, (rows, P, Q))}
    for (name, shape), own in zip(shapes.items(), keys, strict=True):
        made[name] = jax.random.normal(own, (cells - 1, *shape))
    return made


def _scaled(weights: dict[str, Array]) -> dict[str, Array]:
    """The guide's weights as they are used: at the start Lecun's, the last ones a tenth, so that little is added.

    They are kept with variance 1 since the optimiser of both, Adam, moves each number by its rate. Kept as they are
    used, the 64 of a sum would move a logit 25 times as far in a step as log-alpha does; all edges of a cell go the
    same way then, and every cell found is one operation five times.
    """
    return {
        name: (0.1 if name in ("phi2", "w") else 1.0) * w.shape[-2] ** -0.5 * w
        for name, w in weights.items()
    }


def graph(
    alpha: Array, before: Array, w1: Array, w2: Array, phi1: Array, w_g: Array, phi2: Array
) -> tuple[Array, Array]:
    """The graph-guided module of one pair of adjacent cells: (alpha' [P, Q], adjacency [P, P]).

    Adj = softmax over rows of (alpha w1)(before w2)^T; H = before phi1; alpha' = alpha + gamma (Adj H w_g + H) phi2.
    """
    adjacency = jax.nn.softmax((alpha @ w1) @ (before @ w2).T, axis=-1)
    hidden = before @ phi1
    return alpha + GAMMA * (adjacency @ hidden @ w_g + hidden) @ phi2, adjacency


def _identity(
    alpha: Array, before: Array, phi1: Array, w_g: Array, phi2: Array
) -> tuple[Array, Array]:
    """The ablation whose nodes are all P Q entries: Adj = softmax of vec(alpha) vec(before)^T."""
    mine, theirs = alpha.reshape(-1, 1), before.reshape(-1, 1)
    adjacency = jax.nn.softmax(mine @ theirs.T, axis=-1)
    hidden = theirs @ phi1
    added = (adjacency @ hidden @ w_g + hidden) @ phi2
    return alpha + GAMMA * added.reshape(alpha.shape), adjacency


def guided(arch: Arch, search: dict[str, Array]) -> Array:
    """Alpha' of all cells, logits [K, P, Q].

    Every cell but the first is guided by the raw parameters of the one before it, so no cell feels farther ones.
    """
    guide, sharing = guide_of(arch)
    alpha = search[ALPHA]
    if sharing == SHARED:
        kinds = [int(b.stride > 1) for b in arch.backbone.blocks if b.kind == MIXED]
        alpha = alpha[jnp.asarray(kinds)]
    if guide == NONE:
        return alpha
    weights = _scaled({k: v for k, v in search.items() if k != ALPHA})
    pairs = alpha[1:], alpha[:-1]
    if guide == LINK:
        flat = jnp.einsum("ki,kij->kj", pairs[1].reshape(-1, P * Q), weights["w"])
        moved = pairs[0] + GAMMA * flat.reshape(pairs[0].shape)
    else:
        one = _identity if guide == IDENTITY else graph
        moved, _ = jax.vmap(lambda a, b, w: one(a, b, **w))(*pairs, weights)
    return jnp.concatenate([alpha[:1], moved])


def sampled(logits: Array, temperature: Array, key: Array) -> Array:
    """Gumbel-softmax over candidates, independent for every edge: Z [K, P, Q], soft (no straight-through)."""
    noise = jax.random.gumbel(key, logits.shape, logits.dtype)
    return jax.nn.softmax((logits + noise) / temperature, axis=-1)


def best(logits: Array) -> Array:
    """1 for the largest on each edge, else 0."""
    return jax.nn.one_hot(jnp.argmax(logits, axis=-1), logits.shape[-1], dtype=logits.dtype)


def genotype(logits: np.ndarray) -> Genotype:
    """The best candidate on each edge. A cell of which nothing would be left gets its best edge from an input back.

    Args:
        logits: alpha', [K, P, Q].
    """
    cells = []
    for cell in np.asarray(logits):
        choices = [CANDIDATES[i] for i in cell.argmax(axis=-1)]
        if not nodes_of(choices):
            rest = cell[:-1][:, list(LEFT)]  # the last edge is from x1, which would not be there
            edge, which = np.unravel_index(rest.argmax(), rest.shape)
            choices[edge] = CANDIDATES[LEFT[which]]
        cells.append(tuple(choices))
    return tuple(cells)


def derived(arch: Arch, found: Genotype) -> Arch:
    """The network with these choices, everything else as in the one that was searched."""
    blocks = list(arch.backbone.blocks)
    for i, choices in enumerate(found, start=1):
        cell = replace(blocks[i], kind=CELL, choices=tuple(choices))
        blocks[i] = replace(cell, widths=(blocks[i].widths[0],) * num_widths(cell))
    backbone = replace(arch.backbone, blocks=tuple(blocks))
    return replace(arch, backbone=backbone, family="segmenter")


# --- The network ---


RematCell = nn.remat(MixedCell, static_argnums=(3,))
"""The maps of all candidates are not kept for the backward pass but made again."""


class SuperNet(segmenter.Segmenter):
    """A `Segmenter` of mixed cells.

    Without the collection 'mixing' ({'z': [K, P, Q]}) each edge is its best candidate by the variables' entry 'search'.
    """

    conv_op: ConvOp = plain_conv2d

    def setup(self):
        for spec in blocks(self.arch):
            module = RematCell if spec.kind == MIXED else Block
            setattr(self, spec.name, module(spec, self.arch.numbers, self.conv_op, self.axis_name))

    def _one(self, name: str, inputs: Sequence[Array], train: bool) -> Array:
        if not name.startswith("block_") or name == block_name(0):
            return super()._one(name, inputs, train)
        weights = self._weights()[int(name.removeprefix("block_")) - 1]
        return getattr(self, name)(list(inputs), weights, train)

    def _weights(self) -> Array:
        if self.has_variable(MIXING, "z"):
            return self.get_variable(MIXING, "z")
        if self.is_initializing():
            return jnp.full((num_cells(self.arch), P, Q), 1 / Q)
        return best(guided(self.arch, self.get_variable("params", SEARCH)))


def check_guide(guide: str, sharing: str) -> None:
    """Raises a UserError unless there is such a guide, and shared cells are not guided."""
    if guide not in GUIDES:
        raise unknown_name("gas.guide", guide, GUIDES)
    if sharing == SHARED and guide != NONE:
        raise UserError(
            "gas.guide", got=guide, expected="none: shared cells have no neighbours to learn from"
        )
