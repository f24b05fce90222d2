"""Running a network so that every operation's result is seen: in JAX, and in the 64-bit interpreter."""

import jax
import numpy as np

from jaxseg.arch import IMAGE
from jaxseg.conversion.steps import THE_IMAGE, deployed_blocks
from jaxseg.layers.normalise import network_input
from jaxseg.models import zoo
from jaxseg.models.block import SEEN, results
from jaxseg.quant import reference, scaling
from tests.models.test_zoo import CHEAP

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
SIZE = (39, 63)
"""Odd at every stride; means are over 40, 12 or 4 cells."""


def pixels(size=SIZE):
    """An image of blocks and one of noise, uint8 [2, H, W, 3]."""
    rng = np.random.default_rng(0)
    blocks = rng.integers(0, 256, (-(-size[0] // 8), -(-size[1] // 8), 3), np.uint8)
    blocks = blocks.repeat(8, 0).repeat(8, 1)[: size[0], : size[1]]
    return np.stack([blocks, rng.integers(0, 256, (*size, 3), np.uint8)])


def in_jax(arch, variables, image, mean=MEAN, std=STD):
    """(block, operation) -> result, the image among them; in a loop with a first axis of passes."""
    names = [(block.name, op.name) for block in deployed_blocks(arch) for op in block.ops]

    def everything(variables, image):
        x = network_input(image, mean, std, arch.numbers)
        _, found = zoo.module(arch).apply(variables, x, mutable=[SEEN])
        return [x, *(results(found, *name) for name in names)]

    run = jax.jit(everything).lower(variables, image).compile(CHEAP)
    found = jax.device_get(run(variables, image))
    return dict(zip((THE_IMAGE, *names), found, strict=True))


def interpreted(arch, variables, image, mean=MEAN, std=STD):
    """The same of an int8 network, by `quant.reference`."""
    step = arch.numbers.codes.image_step
    codes = reference.image_codes(image, *scaling.image_affine(mean, std, step))
    found, maps = {THE_IMAGE: codes}, {IMAGE: codes}
    for block in deployed_blocks(arch):
        seen, reads = {}, (maps[name] for name in block.inputs)
        maps[block.name] = reference.run_block(block, variables, *reads, seen=seen)
        found |= {(block.name, name): np.asarray(y) for name, y in seen.items()}
    return found


def assert_equal(found, expected):
    """All operations, each by its name."""
    assert found.keys() == expected.keys()
    for name, y in expected.items():
        np.testing.assert_array_equal(found[name], y, err_msg="/".join(name))
