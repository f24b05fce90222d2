"""Ranges of settings that no type can express; a value outside of one is a user's mistake."""

from collections.abc import Callable
from typing import Any

from ml_collections import ConfigDict

from jaxseg import cli
from jaxseg.errors import UserError

MAX_SIDE_PX = 2**14
"""Of a training crop, and so of the images that `bench` and `export` make up."""


def check_given(flat: dict[str, Any]) -> None:
    """Ranges that no type can express, of those settings that are there."""
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
    for key in ("data.mean", "data.std", "loss.class_weights"):
        if not all(isinstance(x, int | float) for x in flat[key]):
            raise UserError(key, got=flat[key], expected="numbers")
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
