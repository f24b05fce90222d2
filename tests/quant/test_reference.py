"""The simulation in float64 against a second implementation in NumPy, forward and backward; and what float32 adds."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks import float64
from jaxseg.arch import BackboneArch, BlockArch
from jaxseg.layers.conv import kernel_reach
from jaxseg.methods import integer
from jaxseg.models import zoo
from tests.fakes import NUM_CLASSES, small_arch
from tests.quant.reference import Network


def network(preset, bits=None):
    blocks = (
        BlockArch("conv_stem", (8,), stride=2, kernel=3),
        BlockArch("basic", (8, 8)),
        BlockArch("basic", (16, 16), stride=2),
    )
    arch = small_arch(dropout=0.0)
    arch = dataclasses.replace(arch, backbone=BackboneArch("tiny", blocks))
    return integer.architecture(arch, integer.Settings(preset, bits or {}), image_reach=4.0)


def both(arch, dtype):
    """(logits, gradients of the parameters) of the simulation, and of the reference."""
    specs = zoo.blocks(arch)
    grids = arch.numbers.integer
    rng = np.random.default_rng(0)
    shapes = jax.eval_shape(lambda key: zoo.init(arch, key), jax.random.PRNGKey(0))

    def fill(path, leaf):
        kind = path[-1].key
        spread = 0.2 if kind == "kernel" else 0.3
        return rng.normal(kind == "scale", spread, leaf.shape).astype(np.float32).astype(dtype)

    params = jax.tree_util.tree_map_with_path(fill, shapes["params"])
    # Powers of two, so that means are exact and no half is rounded to another side.
    image = rng.normal(0, 1.2, (4, 16, 32, 3)).astype(np.float32).astype(dtype)
    dy = rng.normal(size=(4, 4, 8, NUM_CLASSES)).astype(np.float32).astype(dtype)
    net = zoo.module(float64.exact(arch) if dtype == np.float64 else arch)

    def run():
        stats = jax.tree.map(lambda s: jnp.zeros(s.shape, dtype), shapes["batch_stats"])

        def logits(params):
            variables = {"params": params, "batch_stats": stats}
            outputs, updated = net.apply(variables, image, True, mutable=["batch_stats"])
            return outputs.logits, updated

        y, back, _ = jax.vjp(jax.jit(logits), params, has_aux=True)
        return jax.device_get((y, back(jnp.asarray(dy))[0]))

    if dtype == np.float64:
        with float64.everywhere():
            found = run()
    else:
        found = run()
    wide = jax.tree.map(lambda x: np.asarray(x, np.float64), params)
    for block in ("block_00",):  # its layer has another name there
        wide[block] = {"conv1": wide[block]["conv"]}
    layers = {f"{b.name}/{s.name}": s for b in specs for s in b.layers}
    reaches = {n: kernel_reach(s, grids.at(n).weights) for n, s in layers.items()}
    reaches["block_00/conv1"] = reaches["block_00/conv"]
    at = lambda path: grids.at(path.replace("block_00/conv1", "block_00/conv"))  # noqa: E731
    reference = Network(wide, at, reaches, arch.numbers.norm_eps)
    y = reference(np.float64(image))
    grads = reference.back(np.float64(dy))
    grads["block_00"] = {"conv": grads["block_00"]["conv1"]}
    return found, (y, grads)


@pytest.mark.parametrize("preset", ["integer_only", "paper"])
def test_float64_simulation_is_the_reference(preset):
    (y, grads), (want, expected) = both(network(preset), np.float64)
    np.testing.assert_allclose(y, want, rtol=1e-12, atol=1e-12)
    for path, got in jax.tree_util.tree_flatten_with_path(grads)[0]:
        other = expected
        for key in path:
            other = other[key.key]
        np.testing.assert_allclose(got, other, rtol=1e-9, atol=1e-12, err_msg=str(path))


def test_float32_differs_by_a_step_here_and_there():
    (y, _), (want, _) = both(network("integer_only"), np.float32)
    step = 8 / 128
    assert np.mean(y == want) > 0.95
    assert np.abs(y - want).max() <= 2 * step
