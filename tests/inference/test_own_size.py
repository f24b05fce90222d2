"""Each image at its own size, against the parts by hand."""

import jax
import numpy as np
import pytest

from jaxseg.arch import count
from jaxseg.data.dance_sizes import SizeRule
from jaxseg.errors import UserError
from jaxseg.inference.artifact import load_model, save_model
from jaxseg.inference.augmented import Mode
from jaxseg.inference.own_size import OwnSize
from jaxseg.inference.predictor import Model
from jaxseg.inference.ways import Way, routed
from jaxseg.layers.normalise import network_input
from jaxseg.layers.resize import resize_bilinear
from jaxseg.models import zoo
from tests.fakes import COLORS, small_arch
from tests.inference.test_artifact import CARD

RULE = SizeRule("spatial_information", (0.5, 1.0), (0.5,), 8)
SIZE = (48, 64)


@pytest.fixture(scope="module")
def model():
    arch = small_arch()
    card = type(CARD)(**{**vars(CARD), "class_colors": COLORS, "sizes": RULE.to_dict()})
    return Model(arch, jax.device_get(zoo.init(arch, jax.random.PRNGKey(0))), card)


@pytest.fixture(scope="module")
def images():
    rng = np.random.default_rng(0)
    noisy = rng.integers(0, 256, (2, *SIZE, 3), np.uint8)
    smooth = np.broadcast_to(np.linspace(20, 230, SIZE[1], dtype=np.uint8)[:, None], (*SIZE, 3))
    return np.stack([noisy[0], smooth, noisy[1]])


def test_simple_images_are_seen_smaller_and_answered_in_full(model, images):
    own = OwnSize.of(model)
    found = own(images)
    assert found.shape == (3, *SIZE) and found.dtype == np.uint8
    small = RULE.smaller(images[1])
    assert small.shape == (24, 32, 3)
    module = zoo.module(model.arch)
    for image, seen, labels in zip(images, (images[0], small, images[2]), found, strict=True):
        x = network_input(seen[None], CARD.mean, CARD.std, model.arch.numbers)
        scores = resize_bilinear(module.apply(model.variables, x).logits, image.shape[:2])
        # Folded norms round differently: pixels on borders may turn.
        assert np.mean(np.asarray(scores.argmax(-1)[0]) == labels) > 0.99
        np.testing.assert_array_equal(own(image), labels)


def test_the_record_is_of_what_was_seen(model, images):
    own = OwnSize.of(model)
    own(images)
    record = own.record(SIZE)
    macs = [count(zoo.blocks(own.arch), *size).macs for size in ((24, 32), SIZE)]
    assert [row["macs"] for row in record["sizes"]] == macs
    assert [row["size_px"] for row in record["sizes"]] == [[24, 32], list(SIZE)]
    assert [row["frac"] for row in record["sizes"]] == pytest.approx([1 / 3, 2 / 3])
    assert record["macs"] == pytest.approx(macs[0] / 3 + 2 * macs[1] / 3)
    assert OwnSize.of(model).record(SIZE) == {"macs": 0, "sizes": []}


def test_a_model_from_a_folder_keeps_its_rule(model, images, tmp_path):
    save_model(tmp_path / "m", model.arch, model.variables, model.card)
    arch, variables, card = load_model(tmp_path / "m")
    assert SizeRule.from_dict(card.sizes) == RULE
    own = routed(Model(arch, variables, card), Way("slim"))
    np.testing.assert_array_equal(own(images), OwnSize.of(model)(images))


def test_mistakes_are_one_line(model, images):
    plain = Model(model.arch, model.variables, CARD)
    with pytest.raises(
        UserError, match="mode slim: got a model that says no sizes.*dance.data.ratios"
    ):
        routed(plain, Way("slim"))
    with pytest.raises(UserError, match="mode slim: got .*flip.*whole images"):
        routed(Model(model.arch, model.variables, model.card, Mode(flip=True)), Way("slim"))
    with pytest.raises(UserError, match="at least half of the network's output stride"):
        OwnSize.of(model)(np.zeros((4, 4, 3), np.uint8))
