"""Exported files: any batch, every platform, every kind of network, every mode of answering."""

import jax
import numpy as np
import pytest

from jaxseg.errors import UserError
from jaxseg.inference.augmented import Mode
from jaxseg.inference.exported import agreement, exported
from jaxseg.inference.predictor import Model
from jaxseg.models import zoo
from tests.inference.test_artifact import CARD
from tests.models.test_zoo import COVERING, filled

K = 3


@pytest.mark.parametrize("name", COVERING)
def test_every_kind_of_network_for_every_platform_and_any_batch(name):
    arch = zoo.named(name, K, width=0.125)
    shapes = jax.eval_shape(lambda: zoo.init(arch, jax.random.PRNGKey(0)))
    variables = jax.tree.map(lambda x: np.full(x.shape, 0.01, x.dtype), shapes)
    found = exported(Model(arch, variables, CARD), 33, 65)
    assert found.platforms == ("cpu", "cuda", "tpu")
    assert str(found.in_avals[0].shape) == "(batch, 33, 65, 3)"
    assert found.out_avals[0].dtype == np.uint8 and found.out_avals[0].shape[1:] == (33, 65)


@pytest.mark.parametrize(
    "mode",
    [
        Mode(window_px=(32, 48)),
        Mode(flip=True),
        Mode(scales=(0.75, 1.25)),
        Mode(window_px=(32, 48), flip=True, scales=(0.75, 1.25)),
    ],
    ids=str,
)
def test_a_file_answers_in_the_mode_of_its_model(mode):
    arch = zoo.named("fcn_resnet18", K, width=0.125, output_stride=32)
    model = Model(arch, filled(arch), CARD, mode)
    data = bytes(exported(model, 40, 72).serialize())
    images = np.random.default_rng(0).integers(0, 256, (3, 40, 72, 3), np.uint8)
    found = agreement(data, model, images)
    assert found.images == 3 and found.different <= 1e-3 * found.pixels
    # The mode is in the file: a plain model answers otherwise.
    plain = agreement(data, Model(arch, model.variables, CARD), images)
    assert plain.different > 1e-2 * plain.pixels


def test_bytes_that_are_no_file():
    with pytest.raises(UserError, match="cannot be read"):
        agreement(b"", None, np.zeros((1, 4, 4, 3), np.uint8))
