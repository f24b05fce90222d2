"""Exported files: any batch, every platform, every kind of network."""

import jax
import numpy as np
import pytest

from jaxseg.errors import UserError
from jaxseg.inference.exported import agreement, exported
from jaxseg.inference.predictor import Model
from jaxseg.models import zoo
from tests.inference.test_artifact import CARD
from tests.models.test_zoo import COVERING

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


def test_bytes_that_are_no_file():
    with pytest.raises(UserError, match="cannot be read"):
        agreement(b"", None, np.zeros((1, 4, 4, 3), np.uint8))
