"""Which taps see padding only: told from gradients, for networks with and without dilation."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxseg.models import zoo
from jaxseg.models.unseen_taps import unseen

WIDTH = 0.125


def outer_taps_without_gradient(name, size_px):
    """Layers of which an outer row or column of taps has no gradient at all, on noise of this size."""
    arch = zoo.named(name, 3, width=WIDTH, output_stride=16)
    model, variables = zoo.module(arch), zoo.init(arch, jax.random.key(0))
    x = jax.random.normal(jax.random.key(1), (1, *size_px, 3))

    def loss(params):
        logits = model.apply(variables | {"params": params}, x).logits
        return jnp.sum(jnp.square(logits))

    found = set()
    for block, layers in jax.jit(jax.grad(loss))(variables["params"]).items():
        for layer, leaves in layers.items():
            if "kernel" not in leaves:
                continue
            kernel = np.abs(np.asarray(leaves["kernel"])).sum((2, 3))
            ends = [kernel[0], kernel[-1], kernel[:, 0], kernel[:, -1]]
            if any(not end.any() for end in ends):
                found.add(f"{block}/{layer}")
    return arch, found


@pytest.mark.parametrize("size_px", [(32, 32), (96, 128)])
@pytest.mark.parametrize("name", ["deeplabv3plus_resnet18", "fcn_resnet18"])
def test_they_are_those_without_a_gradient(name, size_px):
    arch, found = outer_taps_without_gradient(name, size_px)
    assert set(unseen(zoo.blocks(arch), size_px, (4096, 4096))) == found
    assert bool(found) == (name.startswith("deeplab") or size_px == (32, 32))


def test_who_answers_no_larger_images_has_none():
    blocks = zoo.blocks(zoo.named("deeplabv3plus_resnet18", 3, width=WIDTH))
    assert not unseen(blocks, (96, 128), (96, 128))
    assert unseen(blocks, (96, 128), (96, 1024)) and not unseen(blocks, (1024, 1024), (2048, 2048))
    chex.assert_equal(len(set(found := unseen(blocks, (64, 64), (2048, 2048)))), len(found))
