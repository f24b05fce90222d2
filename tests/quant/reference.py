"""Integer training once more: NumPy, float64, by hand, forward and backward; nothing of jaxseg's quantisers is used.

A network is a stem, residual blocks of two 3x3 convolutions, a head of one 3x3 and a classifier, on one grid for each
path as in `jaxseg.numbers.IntegerArch`. All sums are exact: codes of 8 bits times codes of 16 in float64.
"""

import numpy as np


def nearest_power(x):
    """2^round(log2 x); 1 for 0."""
    return 2.0 ** np.round(np.log2(x)) if x else 1.0


def rounded(x, grid, scale=None):
    """X on a grid of the whole tensor."""
    if grid.bits == 32:
        return x
    top = np.abs(x).max()
    by_rule = {"fixed": grid.reach, "open": grid.reach, "max": top}
    scale = scale or by_rule.get(grid.rule) or nearest_power(top)
    levels = 2.0 ** (grid.bits - 1)
    n = x / scale * levels
    if grid.rule == "flag":
        n = np.where(np.abs(n) >= 1, np.rint(n), np.rint(n * levels) / levels)
    else:
        n = np.rint(n)
    if grid.rule != "open":
        n = np.clip(n, 1 - levels, levels - 1)
    return n / levels * scale


def patches(x, k, stride):
    """[B, H, W, C] -> [B, h, w, k, k, C], zeros around."""
    pad = k // 2
    x = np.pad(x, ((0, 0), (pad, pad), (pad, pad), (0, 0)))
    windows = np.lib.stride_tricks.sliding_window_view(x, (k, k), axis=(1, 2))
    return windows[:, ::stride, ::stride].transpose(0, 1, 2, 4, 5, 3)


class Layer:
    """Convolution, then bias or norm, then ReLU or nothing, then the grid of the result."""

    def __init__(self, params, grids, reach, *, stride=1, relu=False, result, eps):
        self.p, self.g, self.stride, self.relu, self.result, self.eps = (
            params, grids, stride, relu, result, eps,
        )  # fmt: skip
        self.w = rounded(params["kernel"], grids.weights, reach)
        self.grads = {}

    def __call__(self, x):
        self.x = x
        k = self.w.shape[0]
        y = np.einsum("bhwijc,ijcd->bhwd", patches(x, k, self.stride), self.w)
        y = self._norm(y) if "norm" in self.p else y + rounded(self.p["bias"], self.g.biases)
        self.y = y
        y = np.maximum(y, 0) if self.relu else y
        return rounded(y, self.result)

    def _norm(self, y):
        g, axes = self.g, (0, 1, 2)
        self.mean = rounded(y.mean(axes), g.norm_stats)
        centred = y - self.mean
        self.deviation = np.abs(centred).mean(axes)
        over = 1 / rounded(self.deviation + self.eps, g.norm_stats)
        if g.reciprocal_bits < 32:
            levels = 2.0 ** (g.reciprocal_bits - 1)
            power = np.array([nearest_power(v) for v in over])
            over = np.rint(over / power * levels) / levels * power
        self.over = over
        self.n = rounded(centred * over, g.normalised)
        self.gain = rounded(self.p["norm"]["scale"], g.norm_params)
        return self.n * self.gain + rounded(self.p["norm"]["bias"], g.norm_params)

    def back(self, dy):
        """Gradient of the input, from that of the result; keeps those of the parameters."""
        axes = (0, 1, 2)
        if self.result.bits < 32:
            dy = rounded(dy, self.g.errors)
        if self.relu:
            dy = dy * (self.y > 0)
        if "norm" in self.p:
            self.grads["norm"] = {"scale": (dy * self.n).sum(axes), "bias": dy.sum(axes)}
            dy = self._norm_back(dy * self.gain)
        else:
            self.grads["bias"] = dy.sum(axes)
        dy = rounded(dy, self.g.conv_errors)
        k, s = self.w.shape[0], self.stride
        self.grads["kernel"] = np.einsum("bhwijc,bhwd->ijcd", patches(self.x, k, s), dy)
        pad = k // 2
        batch, height, width, channels = self.x.shape
        dx = np.zeros((batch, height + 2 * pad, width + 2 * pad, channels))
        for i in range(k):
            for j in range(k):
                h, w = dy.shape[1:3]
                dx[:, i : i + h * s : s, j : j + w * s : s] += dy @ self.w[i, j].T
        return dx[:, pad : pad + height, pad : pad + width]

    def _norm_back(self, g):
        axes, errors = (0, 1, 2), self.g.norm_errors
        a, b = g.mean(axes), (g * self.n).mean(axes)
        if errors.bits < 32:
            unit = nearest_power(np.abs(g).max()) / 2.0 ** (errors.bits - 1)
            a, b = np.rint(a / unit) * unit, np.rint(b / unit) * unit
        sign = np.sign(self.n)
        return rounded(g - a - (sign - sign.mean(axes)) * b, errors) * self.over


class Network:
    """`tests.fakes.small_arch` without pooling, its layers named as there."""

    def __init__(self, params, grids_at, reaches, eps):
        def layer(block, name, **options):
            path = f"{block}/{name}"
            grids = grids_at(path)
            kind = "activations" if options.get("relu") else "maps"
            result = getattr(grids, options.pop("kind", kind))
            return Layer(
                params[block][name], grids, reaches[path], result=result, eps=eps, **options
            )

        self.grids = grids_at("any/")
        self.stem = layer("block_00", "conv1", stride=2, relu=True)
        self.one = [layer("block_01", "conv1", relu=True), layer("block_01", "conv2")]
        self.two = [layer("block_02", "conv1", stride=2, relu=True), layer("block_02", "conv2")]
        self.short = layer("block_02", "downsample", stride=2)
        self.head = [layer("head", "conv", relu=True), layer("head", "logits", kind="logits")]
        self.named = {
            "block_00": {"conv1": self.stem},
            "block_01": dict(zip(("conv1", "conv2"), self.one, strict=True)),
            "block_02": dict(zip(("conv1", "conv2", "downsample"), [*self.two, self.short], strict=True)),
            "head": dict(zip(("conv", "logits"), self.head, strict=True)),
        }  # fmt: skip

    def _sum(self, a, b):
        return rounded(np.maximum(a + b, 0), self.grids.activations), a + b > 0

    def __call__(self, image):
        x = self.stem(rounded(image, self.grids.image))
        y, self.first = self._sum(self.one[1](self.one[0](x)), x)
        z, self.second = self._sum(self.two[1](self.two[0](y)), self.short(y))
        return self.head[1](self.head[0](z))

    def back(self, dy):
        d = self.head[0].back(self.head[1].back(dy))
        d = rounded(d, self.grids.errors) * self.second
        d = self.two[0].back(self.two[1].back(d)) + self.short.back(d)
        d = rounded(d, self.grids.errors) * self.first
        d = self.one[0].back(self.one[1].back(d)) + d
        self.stem.back(d)
        return {
            b: {n: layer.grads for n, layer in layers.items()} for b, layers in self.named.items()
        }
