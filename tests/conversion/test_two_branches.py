"""Int8 networks whose blocks read several maps: JAX and the reference agree on every operation, exact ones with what
was trained.
"""

import functools

import jax
import numpy as np
import pytest

from jaxseg.conversion import calibrated, exact, steps
from jaxseg.conversion.check import check
from jaxseg.layers.normalise import network_input
from jaxseg.methods import integer
from jaxseg.models import zoo
from jaxseg.models.block import SEEN, results
from jaxseg.models.folding import fold
from jaxseg.quant import reference, scaling
from tests.models.test_zoo import CHEAP, K, filled

NAMES = ("bisenetv2", "ddrnet_23_slim", "pspnet_resnet18")
MEAN, STD = (0.5, 0.4, 0.6), (0.25, 0.2, 0.3)


def pixels(height, width):
    return np.random.default_rng(0).integers(0, 256, (2, height, width, 3), np.uint8)


@functools.partial(jax.jit, static_argnums=0, compiler_options=CHEAP)
def seen(arch, variables, x):
    return zoo.module(arch).apply(variables, x, mutable=[SEEN])[1]


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=pytest.mark.slow) if n == "bisenetv2" else n for n in NAMES]
)
def test_jax_equals_the_reference_operation_by_operation(name):
    arch = zoo.named(name, K, width=0.125)
    arch, variables = fold(arch, jax.tree.map(np.asarray, filled(arch)))
    values = steps.Values(steps.deployed_blocks(arch))
    # Any steps will do, where those that must be equal are.
    order = {root: i for i, root in enumerate(dict.fromkeys(values.groups().values()))}
    chosen = {value: 0.04 + 0.001 * order[root] for value, root in values.groups().items()}
    chosen |= dict.fromkeys(values.gates(), steps.GATE_STEP)
    arch, variables = calibrated.with_steps(arch, variables, chosen)
    check(arch, variables, MEAN, STD)
    image = pixels(63, 95)
    codes = reference.image_codes(
        image, *scaling.image_affine(MEAN, STD, arch.numbers.codes.image_step)
    )
    found = seen(arch, variables, network_input(image, MEAN, STD, arch.numbers))
    maps = reference.taps(values.blocks, variables, codes)
    told = 0
    for block in values.blocks:
        expected = {}
        inputs = (maps[tap] for tap in block.inputs)
        reference.run_block(block, variables, *inputs, seen=expected)
        for op in block.ops:
            ours = np.asarray(results(found, block.name, op.name))
            np.testing.assert_array_equal(ours, expected[op.name], f"{block.name}/{op.name}")
            told += len(np.unique(ours)) > 8
    assert told > 0.8 * sum(len(block.ops) for block in values.blocks)


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_exact_networks_give_the_codes_that_were_trained(name):
    arch = zoo.named(name, K, width=0.125)
    arch = integer.architecture(arch, integer.Settings("integer_only"), image_reach=2.5)
    assert exact.is_exact(arch)
    image = pixels(64, 96)
    x = network_input(image, MEAN, STD, arch.numbers)
    variables = zoo.init(arch, jax.random.PRNGKey(0))
    run = jax.jit(
        lambda v: zoo.module(arch).apply(
            v, x, True, mutable=["batch_stats"], rngs={"dropout": jax.random.PRNGKey(0)}
        )[1],
        compiler_options=CHEAP,
    )
    variables = jax.tree.map(np.asarray, {**variables, **run(variables)})
    new, codes = exact.exact(arch, variables)
    trained = seen(arch, variables, x)
    deployed = seen(new, codes, network_input(image, MEAN, STD, new.numbers))
    for (block, op), step in exact._steps(arch).items():
        if block != "image":
            ours = np.asarray(results(deployed, block, op)).astype(np.float32)
            theirs = np.asarray(results(trained, block, op)) / step
            np.testing.assert_array_equal(ours, theirs, f"{block}/{op}")
