"""Ranges of settings that no type can express; a value outside of one is a user's mistake."""

from collections.abc import Callable
from fnmatch import fnmatchcase
from typing import Any

from ml_collections import ConfigDict

from jaxseg import cli
from jaxseg.errors import UserError, short

MAX_SIDE_PX = 2**14
"""Of a training crop, and so of the images that `bench` and `export` make up."""


NUMBERS, WHOLE, NAMES, SWITCHES = "numbers", "whole numbers", "names", "True or False"
TYPES: dict[str, tuple[type, ...]] = {
    NUMBERS: (int, float),
    WHOLE: (int,),
    NAMES: (str,),
    SWITCHES: (bool,),
}
ITEMS = {
    "data.mean": NUMBERS,
    "data.std": NUMBERS,
    "loss.class_weights": NUMBERS,
    "mess.blocks": NAMES,
    "mess.heads.reductions": WHOLE,
    "mess.heads.extra_blocks": WHOLE,
    "mess.heads.rapid_dilation": SWITCHES,
    "mess.heads.kinds": NAMES,
    "itnet.exits": WHOLE,
    "itnet.exit_weights": NUMBERS,
    "gas.temperatures": NUMBERS,
    "gas.crop_px": WHOLE,
    "bfcn.ladder": NAMES,
    "gas.search.optim.halve_at": NUMBERS,
    "gas.alphas.optim.halve_at": NUMBERS,
    "phases.order": NAMES,
    "phases.*.trainable": NAMES,
    "phases.*.optim.halve_at": NUMBERS,
    "mess.stage_2.optim.halve_at": NUMBERS,
    "integer.layers": NAMES,
    "dance.data.ratios": NUMBERS,
    "dance.data.edges": NUMBERS,
    "eval.window_px": WHOLE,
    "eval.scales": NUMBERS,
    "eval.exits.chosen": WHOLE,
    "eval.exits.pixel": NUMBERS,
    "eval.exits.image": NUMBERS,
}
"""What the items of every setting with several of them are: a config itself knows that it is a tuple, no more."""


def check_items(flat: dict[str, Any]) -> None:
    """The types of items, of those settings that are there."""
    for key, value in flat.items():
        kind = next((kind for glob, kind in ITEMS.items() if fnmatchcase(key, glob)), None)
        # By `type`, since True is an int to isinstance.
        if kind and not all(type(item) in TYPES[kind] for item in value):
            raise UserError(key, got=short(value), expected=kind)


def check_given(flat: dict[str, Any]) -> None:
    """Ranges that no type can express, of those settings that are there, and the types of items."""
    check_items(flat)
    whole: Callable[[Any], bool] = lambda x: x >= 1  # noqa: E731
    not_negative: Callable[[Any], bool] = lambda x: x >= 0  # noqa: E731
    side = (lambda x: 32 <= x <= MAX_SIDE_PX, f"32 or more, at most {MAX_SIDE_PX}")
    rules: dict[str, tuple[Callable[[Any], bool], str]] = {
        "max_steps": (not_negative, "0 (none) or more"),
        "ema_decay": (lambda x: 0 <= x < 1, "a number in [0, 1)"),
        "accumulate": (whole, "1 or more"),
        "max_skipped": (whole, "1 or more"),
        "data.batch_size": (whole, "1 or more"),
        "data.height_px": side,
        "data.width_px": side,
        "data.num_workers": (lambda x: 0 <= x <= 1024, "0 (threads) to 1024"),
        "data.prefetch": (whole, "1 or more"),
        "eval.batch_size": (lambda x: 1 <= x <= 2**16, f"1 or more, at most {2**16}"),
        "eval.every_steps": (not_negative, "0 (at the end only) or more"),
        "eval.num_pictures": (not_negative, "0 or more"),
        "checkpoint.every_steps": (not_negative, "0 (at evaluations only) or more"),
        "checkpoint.keep_last": (whole, "1 or more"),
        "checkpoint.keep_best": (not_negative, "0 or more"),
        "log.every_steps": (whole, "1 or more"),
    }
    for key, (holds, expected) in rules.items():
        if key in flat and not holds(flat[key]):
            raise UserError(key, got=flat[key], expected=expected)


def check_all(config: ConfigDict) -> None:
    """Ranges that no type can express, before anything is prepared."""
    flat = cli.flat_keys(config)
    check_given(flat)
    if len(flat["data.mean"]) != 3 or len(flat["data.std"]) != 3 or min(flat["data.std"]) <= 0:
        raise UserError(
            "data.mean and data.std",
            got=(flat["data.mean"], flat["data.std"]),
            expected="three numbers each, std above 0",
        )
    if config.data.batch_size % config.accumulate:
        raise UserError(
            "accumulate",
            got=config.accumulate,
            expected=f"a divisor of data.batch_size = {config.data.batch_size}",
        )
