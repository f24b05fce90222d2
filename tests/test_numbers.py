"""Formats of numbers as values."""

import pytest

from jaxseg.errors import UserError
from jaxseg.numbers import FLOAT, OPEN, Grid, IntegerArch, NumbersArch, Override, is_power_of_two

EIGHT = IntegerArch(
    weights=Grid(8), activations=Grid(8), conv_errors=Grid(8, "flag"), float_layers=("block_00/*",)
)


def test_nothing_is_rounded_by_default():
    assert IntegerArch().off and NumbersArch().integer.off and Grid().off and Grid().bits == FLOAT
    assert not EIGHT.off and not IntegerArch(reciprocal_bits=8).off


def test_layers_have_widths_of_their_own():
    grids = IntegerArch(
        weights=Grid(8),
        overrides=(Override("head/*", "weights", 4), Override("head/logits", "weights", 16)),
        float_layers=("block_00/*",),
    )
    assert grids.at("block_01/conv1").weights.bits == 8
    assert grids.at("head/conv").weights.bits == 4
    assert grids.at("head/logits").weights.bits == 16
    assert grids.at("block_00/conv1").weights.off
    both = IntegerArch(
        weights=Grid(8, "open", 2.0),
        float_layers=("head/*",),
        overrides=(Override("head/logits", "weights", 6),),
    )
    assert both.at("head/conv").weights.off and both.at("head/logits").weights == Grid(6, "open", 2)
    kept = EIGHT.at("block_00/conv1")
    assert kept.weights.off and kept.conv_errors.off and not kept.activations.off


def test_powers_of_two():
    assert all(map(is_power_of_two, (1, 2, 0.5, 2.0**-30, 2**20)))
    assert not any(map(is_power_of_two, (0, -1, 3, 0.1, -0.5)))


def test_bfloat16_holds_no_sums_of_integers():
    with pytest.raises(UserError, match="bfloat16"):
        NumbersArch("bfloat16", integer=EIGHT)
    assert not NumbersArch(integer=EIGHT).foldable and NumbersArch("bfloat16").foldable


def test_mistakes():
    with pytest.raises(UserError, match="did you mean 'weights'"):
        Override("head/*", "weight", 8)
    with pytest.raises(UserError, match="path of a layer's numbers"):
        Override("*", "image", 8)
    with pytest.raises(UserError, match="bits: got 0"):
        IntegerArch(reciprocal_bits=0)
    with pytest.raises(UserError, match="rule of a grid"):
        Grid(8, "opn")
    assert Grid(8, OPEN, 2).reach == 2.0
