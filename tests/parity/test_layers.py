"""Our layers against torch's, values and gradients alike, in float64."""

import copy

import jax
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from timm.layers import conv2d_same

from benchmarks import float64
from jaxseg.layers import pool, resize
from jaxseg.layers.conv import conv2d
from jaxseg.layers.norm import norm_of
from jaxseg.numbers import IntegerArch, NumbersArch

SIZES = ((6, 8), (5, 9))
C = 6


def draw(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape)


def torch_map(x: np.ndarray) -> torch.Tensor:
    """[B, H, W, C] -> [B, C, H, W], with a gradient."""
    return torch.tensor(x.transpose(0, 3, 1, 2), requires_grad=True)


def our_map(x: torch.Tensor) -> np.ndarray:
    return x.detach().numpy().transpose(0, 2, 3, 1)


def check(ours, theirs, x: np.ndarray, *weights: tuple[np.ndarray, torch.Tensor]) -> None:
    """Equal values, and equal gradients of a random weighted sum of them.

    Args:
        ours: (x, *weights) -> y. theirs: the same in torch, [B, C, H, W].
        x: [B, H, W, C].
        weights: each in our axes, and as a leaf in torch's with gradient; kernels are HWIO and OIHW.
    """
    leaf = torch_map(x)
    y = theirs(leaf, *(w for _, w in weights))
    cotangent = draw(*our_map(y).shape, seed=9)

    @jax.jit
    def both(cotangent, *arguments):
        mine, back = jax.vjp(ours, *arguments)
        return mine, back(cotangent)

    with float64.everywhere():
        mine, gradients = jax.device_get(both(cotangent, x, *(w for w, _ in weights)))
    np.testing.assert_allclose(mine, our_map(y), rtol=0, atol=1e-11)
    y.backward(torch.tensor(cotangent.transpose(0, 3, 1, 2)))
    np.testing.assert_allclose(gradients[0], our_map(leaf.grad), rtol=0, atol=1e-11)
    for found, (_, w) in zip(gradients[1:], weights, strict=True):
        expected = w.grad.numpy()
        expected = expected.transpose(2, 3, 1, 0) if expected.ndim == 4 else expected
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-10)


def kernel(size: int, groups: int, outputs: int) -> tuple[np.ndarray, torch.Tensor]:
    value = draw(size, size, C // groups, outputs, seed=1)
    return value, torch.tensor(value.transpose(3, 2, 0, 1).copy(), requires_grad=True)


@pytest.mark.parametrize("groups, outputs", [(1, 4), (2, 4), (C, C)])
@pytest.mark.parametrize("size", [1, 3, 5])
@pytest.mark.parametrize("stride, dilation", [(1, 1), (2, 1), (1, 2), (2, 3)])
def test_convolution(size, stride, dilation, groups, outputs):
    geometry = {"stride": stride, "dilation": dilation, "groups": groups}
    for shape in SIZES:
        check(
            lambda x, k: conv2d(x, k, **geometry),
            lambda x, k: F.conv2d(x, k, padding=dilation * (size - 1) // 2, **geometry),
            draw(2, *shape, C),
            kernel(size, groups, outputs),
        )


@pytest.mark.parametrize("groups, outputs", [(1, 4), (C, C)])
@pytest.mark.parametrize("size", [1, 3, 5])
@pytest.mark.parametrize("stride, dilation", [(1, 1), (2, 1), (1, 2)])
def test_convolution_with_the_padding_of_tensorflow(size, stride, dilation, groups, outputs):
    geometry = {"stride": stride, "dilation": dilation, "groups": groups}
    for shape in SIZES:
        check(
            lambda x, k: conv2d(x, k, padding="same", **geometry),
            lambda x, k: conv2d_same(
                x, k, stride=(stride,) * 2, dilation=(dilation,) * 2, groups=groups
            ),
            draw(2, *shape, C),
            kernel(size, groups, outputs),
        )


@pytest.mark.parametrize("window, options", [(3, {"padding": 1}), (2, {"ceil_mode": True})])
@pytest.mark.parametrize("shape", SIZES)
def test_max_pool(window, options, shape):
    check(
        lambda x: pool.max_pool(x, window),
        lambda x: F.max_pool2d(x, window, stride=2, **options),
        draw(2, *shape, C),
    )


@pytest.mark.parametrize("window, stride", [(3, 2), (5, 2), (9, 4), (17, 8)])
@pytest.mark.parametrize("shape", SIZES)
def test_average_pool(window, stride, shape):
    check(
        lambda x: pool.average_pool(x, window, stride),
        lambda x: F.avg_pool2d(x, window, stride, window // 2),
        draw(2, *shape, C),
    )


@pytest.mark.parametrize("bins", [1, 2, 3, 6])
@pytest.mark.parametrize("shape", [*SIZES, (2, 3)])
def test_average_over_parts(bins, shape):
    check(
        lambda x: pool.average(x, bins),
        lambda x: F.adaptive_avg_pool2d(x, bins),
        draw(2, *shape, C),
    )


@pytest.mark.parametrize("stride", [1, 2])
def test_depthwise_convolution_that_widens(stride):
    for shape in SIZES:
        check(
            lambda x, k: conv2d(x, k, stride=stride, groups=C),
            lambda x, k: F.conv2d(x, k, stride=stride, padding=1, groups=C),
            draw(2, *shape, C),
            kernel(3, C, 4 * C),
        )


@pytest.mark.parametrize("align_corners", [False, True])
@pytest.mark.parametrize(
    "shape, size", [((3, 5), (12, 20)), ((3, 5), (11, 17)), ((9, 8), (4, 5)), ((1, 1), (3, 4))]
)
def test_bilinear_resizing(shape, size, align_corners):
    check(
        lambda x: resize.resize_bilinear(x, size, align_corners=align_corners),
        lambda x: F.interpolate(x, size, mode="bilinear", align_corners=align_corners),
        draw(2, *shape, C),
    )


@pytest.mark.parametrize("size", [(6, 10), (5, 9)])
def test_nearest_upsampling(size):
    check(
        lambda x: resize.upsample_nearest(x, size),
        lambda x: F.interpolate(x, size, mode="nearest"),
        draw(2, 3, 5, C),
    )


@pytest.mark.parametrize("train", [False, True])
def test_batch_norm(train):
    """Torch keeps the unbiased variance, n / (n - 1) of ours; it normalises with the biased one, as we do."""
    x, n = draw(3, 4, 5, C) * 2 + 1, 60
    scale, bias, mean, var = (np.abs(draw(C, seed=s)) + 0.5 for s in range(1, 5))
    numbers = copy.copy(NumbersArch(norm_eps=1e-3))
    object.__setattr__(numbers, "compute", "float64")
    norm = norm_of(numbers, IntegerArch(), None, name="norm")

    def ours(x, scale, bias):
        variables = {"params": {"scale": scale, "bias": bias}}
        variables["batch_stats"] = {"mean": mean, "var": var}
        return norm.apply(variables, x, use_running_average=not train, mutable=["batch_stats"])

    running = torch.tensor(mean), torch.tensor(var)
    check(
        lambda *a: ours(*a)[0],
        lambda x, *affine: F.batch_norm(x, *running, *affine, train, momentum=0.1, eps=1e-3),
        x,
        *((v, torch.tensor(v, requires_grad=True)) for v in (scale, bias)),
    )
    if train:
        with float64.everywhere():
            new = jax.device_get(ours(x, scale, bias)[1]["batch_stats"])
        np.testing.assert_allclose(new["mean"], running[0], rtol=1e-12)
        expected = 0.9 * var + (running[1].numpy() - 0.9 * var) * (n - 1) / n
        np.testing.assert_allclose(new["var"], expected, rtol=1e-12)
