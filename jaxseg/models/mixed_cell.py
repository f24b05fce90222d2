"""A cell with all candidates on each edge (after GAS, 1909.06793), as few large operations.

Layer by layer a search of 8 cells is 120 thousand operations, which XLA compiles for a quarter of an hour into 16 GB.
So all edges from one map are computed together, on joined variables (see `backbones.gas_mixed`), and kernels of
depthwise and grouped convolutions are spread into dense ones with zeros: on the few channels of a cell they take no
longer, and are calls of a library instead of loops that have to be compiled.
"""

from collections.abc import Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxseg.arch import BlockSpec
from jaxseg.layers.conv import ConvOp, plain_conv2d
from jaxseg.layers.norm import applied
from jaxseg.layers.pointwise import pointwise_conv2d
from jaxseg.layers.pool import max_pool
from jaxseg.models.backbones.gas import (
    CANDIDATES,
    CONV,
    EDGES,
    MAX_POOL,
    NEWER,
    OLDER,
    SEPARABLES,
    SKIP,
    X1,
    X2,
)
from jaxseg.models.backbones.gas_mixed import SOURCES, edges_from
from jaxseg.numbers import NumbersArch
from jaxseg.types import Array


class MixedCell(nn.Module):
    """See above.

    spec:      of a 'gas_mixed' block.
    numbers:   dtype of the computation, constants of batch norm.
    conv_op:   the convolution, see `layers.conv.ConvOp`.
    axis_name: axis of devices that share batch statistics, or None.
    """

    spec: BlockSpec
    numbers: NumbersArch
    conv_op: ConvOp = plain_conv2d
    axis_name: str | None = None

    @nn.compact
    def __call__(self, inputs: Sequence[Array], weights: Array, train: bool = False) -> Array:
        """Maps [B, h, w, C] of the newer and the older cell, weights [P, Q] of the candidates -> [B, h', w', 2 C]."""
        newer, older = inputs
        maps = {
            OLDER: kept(self._layer(OLDER, older, train)),
            NEWER: kept(self._layer(NEWER, newer, train)),
        }
        nodes: dict[str, Array] = {}
        for source in SOURCES:
            if source == X1:
                maps[X1] = kept(nodes[X1])
            edges = edges_from(source)
            mixed = self._edges(source, maps[source], weights[jnp.array(edges)], train)
            for i, e in enumerate(edges):
                node, y = EDGES[e][1], mixed[..., i, :]
                nodes[node] = nodes[node] + y if node in nodes else y
        return kept(jnp.concatenate([maps[X1], nodes[X2]], axis=-1))

    def _edges(self, source: str, x: Array, weights: Array, train: bool) -> Array:
        """What the E edges from a map add to their nodes: [B, h', w', E, C], of weights [E, Q]."""
        step, edges, channels = self._stride(source), len(weights), x.shape[-1]
        parts = {CONV: self._layer(f"{source}_{CONV}", x, train)}
        if step > 1:
            parts[SKIP] = self._layer(f"{source}_{SKIP}", x, train)
        apart = self._separable(source, x, train)
        parts |= dict(zip(SEPARABLES, jnp.split(apart, len(SEPARABLES), axis=-1), strict=True))
        parts = {c: y.reshape(*y.shape[:3], edges, channels) for c, y in parts.items()}
        parts |= {MAX_POOL: max_pool(x, 3, step)[..., None, :]}
        parts.setdefault(SKIP, x[..., None, :])
        share = weights.astype(x.dtype).reshape(1, 1, 1, edges, -1, 1)
        return sum(share[..., CANDIDATES.index(c), :] * y for c, y in parts.items())

    def _separable(self, source: str, x: Array, train: bool) -> Array:
        """[B, h', w', dilations E C]"""
        name, channels = f"{source}_depthwise", x.shape[-1]
        kernels = jnp.split(self._kernel(name), len(SEPARABLES), axis=-1)
        maps = [
            self.conv_op(x, spread(kernel, channels), stride=self._stride(source), dilation=d)
            for kernel, d in zip(kernels, SEPARABLES.values(), strict=True)
        ]
        y = self._norm(name, jnp.concatenate(maps, axis=-1), train)
        name = f"{source}_point"
        y = self._norm(name, self.conv_op(y, blocks(self._kernel(name))), train)
        return jax.nn.relu(y)

    def _layer(self, name: str, x: Array, train: bool) -> Array:
        """A layer of one group."""
        layer, kernel = self.spec.layer(name), self._kernel(name)
        y = self.conv_op(x.astype(kernel.dtype), kernel, stride=layer.stride)
        y = self._norm(name, y, train)
        return jax.nn.relu(y) if layer.activation else y

    def _stride(self, source: str) -> int:
        return self.spec.layer(f"{source}_{CONV}").stride

    def _kernel(self, name: str) -> Array:
        return self.get_variable("params", name)["kernel"].astype(self.numbers.compute)

    def _norm(self, name: str, x: Array, train: bool) -> Array:
        """The norm of a layer, without scale and bias; training moves its running statistics."""
        running = self.get_variable("batch_stats", name)["norm"]
        one = jnp.ones(x.shape[-1:])
        y, (mean, var) = applied(
            x,
            one,
            0 * one,
            (running["mean"], running["var"]),
            momentum=self.numbers.norm_momentum,
            eps=self.numbers.norm_eps,
            train=train,
            axis_name=self.axis_name,
        )
        if train:
            self.put_variable("batch_stats", name, {"norm": {"mean": mean, "var": var}})
        return y.astype(x.dtype)


def spread(kernel: Array, channels: int) -> Array:
    """Depthwise [kh, kw, 1, E C] -> the same as a dense one, [kh, kw, C, E C]."""
    height, width, _, wide = kernel.shape
    own = kernel.reshape(height, width, 1, -1, channels)
    diagonal = jnp.eye(channels, dtype=kernel.dtype).reshape(1, 1, channels, 1, channels)
    return (own * diagonal).reshape(height, width, channels, wide)


def blocks(kernel: Array) -> Array:
    """Of groups [1, 1, C, G C] -> the same as a dense one, [1, 1, G C, G C]."""
    _, _, channels, wide = kernel.shape
    groups = wide // channels
    apart = jnp.eye(groups, dtype=kernel.dtype).reshape(groups, 1, groups, 1)
    return (apart * kernel.reshape(1, channels, groups, channels)).reshape(1, 1, wide, wide)


def kept(x: Array) -> Array:
    """The map itself, held in memory, its gradient too.

    Else XLA works it out again inside of everything that reads it: of a sum of seven candidates, for each of 36 taps,
    and so on from cell to cell. Its fusion on CPU ignores barriers, but leaves products alone.
    """

    def times_one(x: Array) -> Array:
        return pointwise_conv2d(x, jnp.eye(x.shape[-1], dtype=x.dtype)[None, None])

    return jax.lax.platform_dependent(x, cpu=times_one, default=jax.lax.optimization_barrier)
