"""A cell with all candidates on each edge (after GAS, 1909.06793), as few large operations.

Layer by layer a search of 8 cells is 120 thousand operations, which XLA compiles for a quarter of an hour into 16 GB.
So what reads one map with one dilation is one convolution for all edges, and the 1x1 convolutions behind all depthwise
ones are one with a block-diagonal kernel. Variables are those of the layers of the spec, so that a derived network
takes its own out of them; that both compute the same is a test.
"""

from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxseg.arch import BlockSpec
from jaxseg.layers.conv import ConvOp, conv2d
from jaxseg.layers.norm import applied
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
    conv_op: ConvOp = conv2d
    axis_name: str | None = None

    @nn.compact
    def __call__(self, inputs: Sequence[Array], weights: Array, train: bool = False) -> Array:
        """Maps [B, h, w, C] of the newer and the older cell, weights [P, Q] of the candidates -> [B, h', w', 2 C]."""
        newer, older = inputs
        maps = {
            OLDER: self._layers([OLDER], older, train, "relu")[0],
            NEWER: self._layers([NEWER], newer, train, "relu")[0],
        }
        nodes: dict[str, Array] = {}
        for source in (OLDER, NEWER, X1):
            if source == X1:
                maps[X1] = kept(nodes[X1])
            for e, y in self._edges(source, maps[source], weights, train).items():
                node = EDGES[e][1]
                nodes[node] = nodes[node] + y if node in nodes else y
        return kept(jnp.concatenate([maps[X1], nodes[X2]], axis=-1))

    def _edges(self, source: str, x: Array, weights: Array, train: bool) -> dict[int, Array]:
        """What every edge from a map adds to its node."""
        edges = [e for e, (reads, _) in enumerate(EDGES) if reads == source]
        step = self.spec.layer(f"edge{edges[0]}_{CONV}").stride
        share = {e: dict(zip(CANDIDATES, weights[e].astype(x.dtype), strict=True)) for e in edges}
        convolved = self._layers([f"edge{e}_{CONV}" for e in edges], x, train, "relu")
        pooled = max_pool(x, 3, step)
        skipped = [x] * len(edges)
        if step > 1:
            skipped = self._layers([f"edge{e}_{SKIP}" for e in edges], x, train, "")
        separated = self._separable(edges, x, train)
        return {
            e: share[e][CONV] * convolved[i]
            + share[e][MAX_POOL] * pooled
            + share[e][SKIP] * skipped[i]
            + sum(share[e][name] * y for name, y in separated[e].items())
            for i, e in enumerate(edges)
        }

    def _separable(self, edges: list[int], x: Array, train: bool) -> dict[int, dict[str, Array]]:
        """Edge -> candidate -> map."""
        wide = kept(jnp.concatenate([x] * len(edges), axis=-1))
        names = [f"edge{e}_{choice}" for choice in SEPARABLES for e in edges]
        maps = []
        for choice in SEPARABLES:
            own = [f"edge{e}_{choice}_depthwise" for e in edges]
            kernel = kept(jnp.concatenate([self._kernel(n) for n in own], axis=-1))
            layer = self.spec.layer(own[0])
            maps.append(
                self.conv_op(
                    wide,
                    kernel,
                    stride=layer.stride,
                    dilation=layer.dilation,
                    groups=wide.shape[-1],
                    padding=layer.padding,
                )
            )
        y = kept(jnp.concatenate(maps, axis=-1))
        y = kept(self._norm([f"{n}_depthwise" for n in names], y, train))
        kernels = kept(jnp.stack([self._kernel(n)[0, 0] for n in names]))
        count, inputs, outputs = kernels.shape
        apart = jnp.eye(count, dtype=kernels.dtype)[:, None, :, None] * kernels[:, :, None, :]
        block = kept(apart.reshape(1, 1, count * inputs, count * outputs))
        y = kept(jax.nn.relu(self._norm(names, self.conv_op(y, block), train)))
        parts = dict(zip(names, jnp.split(y, count, axis=-1), strict=True))
        return {e: {choice: parts[f"edge{e}_{choice}"] for choice in SEPARABLES} for e in edges}

    def _layers(self, names: list[str], x: Array, train: bool, activation: str) -> list[Array]:
        """Several layers of one shape on one map, as one."""
        layer = self.spec.layer(names[0])
        kernel = kept(jnp.concatenate([self._kernel(name) for name in names], axis=-1))
        y = self.conv_op(x.astype(kernel.dtype), kernel, stride=layer.stride, padding=layer.padding)
        y = self._norm(names, y, train)
        y = kept(jax.nn.relu(y) if activation else y)
        return jnp.split(y, len(names), axis=-1)

    def _kernel(self, name: str) -> Array:
        return self.get_variable("params", name)["kernel"].astype(self.numbers.compute)

    def _norm(self, names: list[str], x: Array, train: bool) -> Array:
        """The norms of several layers side by side; training moves the running statistics of each."""

        def joined(kind: str, leaf: str) -> Array:
            found = [self.get_variable(kind, name)["norm"][leaf] for name in names]
            return kept(jnp.concatenate(found))

        scale, bias = (joined("params", leaf) for leaf in ("scale", "bias"))
        running = joined("batch_stats", "mean"), joined("batch_stats", "var")
        y, moved = applied(
            x,
            scale,
            bias,
            running,
            momentum=self.numbers.norm_momentum,
            eps=self.numbers.norm_eps,
            train=train,
            axis_name=self.axis_name,
        )
        if train:
            parts = (jnp.split(kept(v), len(names)) for v in moved)
            for name, mean, var in zip(names, *parts, strict=True):
                self.put_variable("batch_stats", name, {"norm": {"mean": mean, "var": var}})
        return y.astype(x.dtype)


def kept(x: Array) -> Array:
    """The map itself, to be held in memory, its gradient too.

    Else XLA works it out again inside of everything that reads it: of a sum of seven candidates, in front of each of
    the 36 shifts of the depthwise convolutions, and so on from cell to cell.
    """
    return jax.lax.optimization_barrier(x)


def variables_of(spec: BlockSpec, variables: dict[str, Any]) -> dict[str, Any]:
    """Of a derived cell, out of those of the mixed one."""
    return {layer.name: variables[layer.name] for layer in spec.layers if layer.name in variables}
