"""Few bits after BFCN on toy_street: with and without a ladder of bits, floats given the same number of steps.

Every arm trains `STEPS` steps in all: directly, or most of them in floats and a third as many on every rung of the
ladder. What operations cost is counted (`quant.bit_serial`), not timed.
"""

import functools
from pathlib import Path
from typing import Any

from benchmarks import common
from jaxseg.inference.artifact import load_model
from jaxseg.models import zoo
from jaxseg.quant.bit_serial import word_operations

CLAIM = (
    "Quarter-width DeepLabV3+ on ResNet-18, toy_street, 720 steps from scratch, test mIoU with few bits of kernels and "
    "activations (8 in the first block and the scores), directly and by a ladder. BFCN on VOC 2012, ImageNet weights: "
    "2.8 points below floats at 2/2, 7.0 at 1/2."
)
SEEDS = (0, 1, 2)
CONFIG = "bfcn_toy_street"
STEPS = 720
SIZE_PX = (192, 256)
RUNGS = ("32/32", "8/8", "4/4", "2/2", "1/2")


def trained(
    bits: str, ladder: tuple[str, ...], seed: int, workdir: Path, data: str
) -> dict[str, Any]:
    """A run that ends with so many bits; its row."""
    del data
    weights, activations = map(int, bits.split("/"))
    steps = round(STEPS / (1 + len(ladder) / 3))
    run = common.trained(
        CONFIG,
        workdir,
        f"--config.seed={seed}",
        f"--config.bfcn.weights={weights}",
        f"--config.bfcn.activations={activations}",
        f"--config.bfcn.ladder={ladder}",
        f"--config.phases.main.steps={steps}",
    )
    row = common.summary(run, {"test": common.scored(workdir, "test")})
    arch = load_model(workdir / "model")[0]
    return row | word_operations(zoo.blocks(arch), arch.numbers.bits, *SIZE_PX)


ARMS = {"float": functools.partial(trained, RUNGS[0], ())}
for _i, _bits in enumerate(RUNGS[1:], start=1):
    _name = "w{}a{}".format(*_bits.split("/"))
    ARMS[_name] = functools.partial(trained, _bits, RUNGS[:_i])
    ARMS[f"{_name}_direct"] = functools.partial(trained, _bits, ())
