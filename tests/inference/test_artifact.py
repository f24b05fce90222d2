"""The deployed folder: exact round trip, and one line for every kind of damage."""

import json

import chex
import jax
import numpy as np
import pytest

from jaxseg.errors import UserError
from jaxseg.inference.artifact import VARIABLES, Card, load_model, save_model
from jaxseg.inference.predictor import Model
from jaxseg.models import zoo
from tests.fakes import COLORS, small_arch

CARD = Card(
    class_names=("red", "green", "blue"),
    class_colors=COLORS,
    mean=(0.5, 0.5, 0.5),
    std=(0.25, 0.25, 0.25),
    data={"name": "toy_street", "height_px": 32},
    evaluation={"batch_size": 2},
    origin={"step": 3},
)


@pytest.fixture
def folder(tmp_path):
    arch = small_arch(aux=True)
    save_model(tmp_path / "m", arch, zoo.init(arch, jax.random.PRNGKey(1)), CARD)
    return tmp_path / "m"


def test_round_trip(folder):
    arch, variables, card = load_model(folder)
    assert arch == small_arch(aux=True) and card == CARD
    chex.assert_trees_all_equal(variables, jax.device_get(zoo.init(arch, jax.random.PRNGKey(1))))


def test_replacing_leaves_nothing_behind(folder):
    save_model(folder, *load_model(folder))
    assert [p.name for p in folder.parent.iterdir()] == ["m"]


def test_auxiliary_heads_may_be_missing_and_float16_is_widened(folder):
    arch, variables, card = load_model(folder)
    slim = {
        kind: {name: tree for name, tree in variables[kind].items() if name != "aux_0"}
        for kind in variables
    }
    half = jax.tree.map(lambda x: x.astype(np.float16), slim)
    save_model(folder, arch, half, card)
    image = np.random.default_rng(0).integers(0, 256, (40, 48, 3), np.uint8)
    labels = Model.load(folder)(image)
    assert labels.shape == (40, 48) and labels.dtype == np.uint8 and labels.max() < 3


def test_half_the_size_on_request(folder):
    arch, variables, card = load_model(folder)
    full = (folder / VARIABLES).stat().st_size
    save_model(folder, arch, variables, card, dtype=np.float16)
    assert (folder / VARIABLES).stat().st_size < 0.6 * full
    _, again, _ = load_model(folder)
    rounded = jax.tree.map(lambda x: x.astype(np.float16).astype(np.float32), variables)
    chex.assert_trees_all_equal(again, rounded)
    variables["params"]["head"]["logits"]["bias"] += 7e4
    with pytest.raises(UserError, match="does not fit into float16.*at most 65504"):
        save_model(folder, arch, variables, card, dtype=np.float16)


def cut(path):
    path.write_bytes(path.read_bytes()[:-20])


def flip(path):
    data = bytearray(path.read_bytes())
    data[-5] ^= 1
    path.write_bytes(bytes(data))


def edit(key, value):
    def change(path):
        record = json.loads(path.read_text())
        record[key] = value
        path.write_text(json.dumps(record))

    return change


def drop(key):
    def change(path):
        record = json.loads(path.read_text())
        del record[key]
        path.write_text(json.dumps(record))

    return change


@pytest.mark.parametrize(
    "name, damage, says",
    [
        ("variables.safetensors", cut, "damaged"),
        ("variables.safetensors", flip, "damaged"),
        ("variables.safetensors", lambda p: p.unlink(), "cannot read variables.safetensors"),
        ("arch.json", lambda p: p.unlink(), "cannot read arch.json"),
        ("arch.json", lambda p: p.write_text("{"), "not valid JSON"),
        ("arch.json", edit("num_classes", 4), "class_names: .*expected 4 different names"),
        (
            "arch.json",
            edit("aux", []),
            "does not fit arch.json at batch_stats/aux_0.* got .*nothing",
        ),
        ("arch.json", edit("schema", 99), "schema"),
        ("arch.json", edit("family", "segmentor"), "did you mean 'segmenter'"),
        ("model.json", lambda p: p.write_text("[]"), "expected a JSON object"),
        ("model.json", edit("schema", 2), "schema"),
        ("model.json", edit("mean", 3), "mean: got 3; expected three numbers"),
        ("model.json", drop("origin"), "not complete: got no origin"),
    ],
)
def test_damage_is_one_line(folder, name, damage, says):
    damage(folder / name)
    with pytest.raises(UserError, match=says) as error:
        load_model(folder)
    assert "\n" not in str(error.value)


def test_arrays_are_stored_as_they_read_whatever_their_memory(tmp_path):
    """Of a broadcast or turned array, whose bytes lie in another order."""
    arch = small_arch()
    variables = jax.tree.map(np.asarray, zoo.init(arch, jax.random.PRNGKey(0)))
    kernel = variables["params"]["head"]["conv"]["kernel"]
    turned = np.asfortranarray(kernel)
    variables["params"]["head"]["conv"]["kernel"] = turned
    save_model(tmp_path / "m", arch, variables, CARD)
    _, loaded, _ = load_model(tmp_path / "m")
    np.testing.assert_array_equal(loaded["params"]["head"]["conv"]["kernel"], kernel)
