"""Integer training on toy_street: presets against floats, and every quantiser of `integer_only` left out alone.

An arm trains the evidence network for `STEPS` steps of 8 crops of 96x128 px and is scored on whole images. Rates were
chosen on calib, of seed 0, among powers of two. On 2 idle CPU cores an arm takes one to two minutes.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks import common
from jaxseg.methods import integer

CLAIM = (
    "Quarter-width DeepLabV3+ on ResNet-18, toy_street, 600 steps from scratch, test mIoU: floats by the quickstart's "
    "recipe, on the same power-of-two schedule, and with norm and constant gradients of integer_only but nothing else "
    "of it; the presets of integer training; integer_only with one quantiser left out at a time. Is integer_only "
    "within 1.5 points of floats?"
)
SEEDS = (0, 1, 2)
STEPS = 600
AIM = 0.015

WITHOUT = {
    "weights": ("weights",),
    "activations": ("image", "activations", "maps", "normalised"),
    "scores": ("logits",),
    "errors": ("errors",),
    "conv_errors": ("conv_errors",),
    "norm": ("norm_params", "norm_stats", "norm_errors", "reciprocal"),
    "updates": ("momentum", "stored"),
}
"""What is left out -> widths that then are 32 bits; of activations 16, since clipping them is part of the network."""


def arm(*overrides: str) -> Callable[[int, Path, str], dict[str, Any]]:
    """Trains configs/integer_toy_street.py with overrides of its values."""
    flags = tuple(f"--config.{override}" for override in overrides)

    def run(seed: int, workdir: Path, data: str) -> dict[str, Any]:
        usual = (f"--config.seed={seed}", f"--config.phases.main.steps={STEPS}")
        told = common.trained("integer_toy_street", workdir, *usual, *flags)
        row = common.summary(told, {"test": common.scored(workdir, "test")})
        return row | {"overrides": list(overrides)}

    return run


def without(*widths: str, wide: int = 16) -> Callable[[int, Path, str], dict[str, Any]]:
    """`integer_only` with these widths floating; `wide`: bits of what holds activations."""
    maps = ("image", "activations", "maps", "normalised")
    bits = {name: wide if name in maps else 32 for name in widths}
    return arm(*(f"integer.widths.{name}={b}" for name, b in bits.items()))


FLOAT_RATE = 0.125
NETWORK = tuple(name for name in integer.WIDTHS if name not in integer.UPDATE_WIDTHS)
RATE = "phases.main.optim.learning_rate="
FLOAT = "integer.preset="
ADAMW = (
    FLOAT,
    "phases.main.optim.name=adamw",
    f"{RATE}0.005",
    "phases.main.optim.momentum=0.9",
    "phases.main.optim.weight_decay=1e-4",
    "phases.main.optim.schedule=poly",
    "phases.main.optim.warm_up_steps=50",
)
"""Floats by the quickstart's recipe."""

ARMS = {
    "float_adamw": arm(*ADAMW),
    "float": arm(FLOAT, f"{RATE}{FLOAT_RATE}"),
    "float_constant": without(*NETWORK, "momentum", "stored", wide=32),
    "integer_only": arm(),
    "paper": arm("integer.preset=paper", f"{RATE}8.0", "phases.main.optim.momentum=0.0"),
    "wageubn": arm("integer.preset=wageubn", f"{RATE}0.25", "phases.main.optim.momentum=0.75"),
    **{f"without_{name}": without(*widths) for name, widths in WITHOUT.items()},
    # Gradients that are not rounded are not of constant size either: the rate of floats.
    "without_gradients": arm("integer.widths.gradients=32", f"{RATE}{FLOAT_RATE}"),
}
