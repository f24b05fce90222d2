"""Label maps without upsampling, against arg-max of float64 upsampling."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxseg.inference import labelling
from jaxseg.inference.labelling import labels_at
from jaxseg.quant.scaling import exact_weights


def upsampled(logits, size):
    """float64 bilinear upsampling with half-pixel centres, one axis after the other."""
    for axis, length in ((1, size[0]), (2, size[1])):
        n = logits.shape[axis]
        centre = np.clip((np.arange(length) + 0.5) * n / length - 0.5, 0, n - 1)
        low = np.minimum(centre.astype(int), n - 1)
        high, frac = np.minimum(low + 1, n - 1), centre - low
        frac = frac.reshape([-1 if i == axis else 1 for i in range(4)])
        logits = logits.take(low, axis) * (1 - frac) + logits.take(high, axis) * frac
    return logits


def scores(batch, height, width, classes, noise, seed=0):
    """Smooth regions with `noise` on them: from few borders to nothing else."""
    rng = np.random.default_rng(seed)
    coarse = rng.normal(size=(batch, 3, 4, classes))
    return upsampled(coarse, (height, width)) + noise * rng.normal(
        size=(batch, height, width, classes)
    )


@pytest.mark.parametrize("classes", (1, 5, labelling.UNROLLED + 1))
@pytest.mark.parametrize("noise", (0.0, 3.0))
@pytest.mark.parametrize("scale", (2, 3, 4, 8))
def test_tiles_answer_as_upsampling_does(monkeypatch, scale, noise, classes):
    monkeypatch.setattr(labelling, "LARGE", 0)
    monkeypatch.setattr(labelling, "TILES", 32)  # several rounds, the last one not full
    logits = scores(2, 9, 14, classes, noise)
    size = (9 * scale, 14 * scale)
    found = np.asarray(jax.jit(lambda x: labels_at(x, size))(jnp.asarray(logits, jnp.float32)))
    full = upsampled(logits, size)
    assert found.dtype == np.uint8 and found.shape == (2, *size)
    chosen = np.take_along_axis(full, found[..., None].astype(int), axis=-1)[..., 0]
    np.testing.assert_array_less(full.max(-1) - chosen, 1e-5)  # another class at a tie at most
    if classes > 1:
        assert len(np.unique(found)) > 1


@pytest.mark.parametrize("size", ((18, 42), (20, 28), (9, 14), (5, 7)))
def test_other_sizes_are_upsampled(monkeypatch, size):
    monkeypatch.setattr(labelling, "LARGE", 0)
    logits = scores(1, 9, 14, 4, 0.1)
    found = labels_at(jnp.asarray(logits, jnp.float32), size)
    if size[0] >= 9:
        np.testing.assert_array_equal(found, upsampled(logits, size).argmax(-1))
    assert found.shape == (1, *size)


@pytest.mark.parametrize("classes", (4, labelling.UNROLLED + 1))
@pytest.mark.parametrize("size", ((20, 31), (9, 14), (5, 7), (10, 5), (64, 15)))
def test_codes_at_other_sizes_to_the_last_bit(size, classes):
    """Against numerators in 64 bits; codes are few, so equals are common, and the first of them is the answer."""
    codes = np.random.default_rng(0).integers(-3, 4, (2, 9, 14, classes)).astype(np.int8)
    full = codes.astype(np.int64)
    for axis, length in ((1, size[0]), (2, size[1])):
        low, high, weight, whole = exact_weights(full.shape[axis], length)
        weight = weight.reshape([-1 if i == axis else 1 for i in range(4)]).astype(np.int64)
        full = full.take(low, axis) * (whole - weight) + full.take(high, axis) * weight
    found = jax.jit(lambda x: labels_at(x, size))(codes)
    assert found.dtype == np.uint8
    np.testing.assert_array_equal(found, full.argmax(-1))


def test_only_tiles_on_borders_are_interpolated(monkeypatch):
    monkeypatch.setattr(labelling, "LARGE", 0)
    monkeypatch.setattr(labelling, "TILES", 8)
    seen = []

    def counted(around, scale):
        jax.debug.callback(lambda x: seen.append(len(x)), around[0])
        return winner(around, scale)

    winner = labelling._winner_of_mixtures
    monkeypatch.setattr(labelling, "_winner_of_mixtures", counted)
    half = np.zeros((1, 16, 16, 2), np.float32)
    half[:, :, 8:, 1] = 1.0  # one border, from top to bottom: 17 tiles
    half[:, :, :8, 0] = 1.0
    found = labels_at(jnp.asarray(half), (64, 64))
    jax.effects_barrier()
    np.testing.assert_array_equal(found[0], np.repeat([[0] * 32 + [1] * 32], 64, 0))
    assert seen == [8, 8, 8]
