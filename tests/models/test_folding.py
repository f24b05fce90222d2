"""Folded networks answer as they did with batch norm."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxseg.arch import count, from_json, to_json
from jaxseg.models import zoo
from jaxseg.models.folding import fold
from jaxseg.numbers import FOLDED
from tests.models.test_zoo import CHEAP, COVERING, image, small


@pytest.mark.parametrize("name", COVERING)
def test_answers_stay(name):
    """Over every kind of block and head, with statistics that are not 0 and 1."""
    arch, module, variables = small(name)
    folded, arrays = fold(arch, variables)
    x = image()

    @jax.jit
    def both(variables, arrays):
        return module.apply(variables, x).logits, zoo.module(folded).apply(arrays, x).logits

    expected, found = both.lower(variables, arrays).compile(CHEAP)(variables, arrays)
    scale = np.abs(expected).max()
    np.testing.assert_allclose(found, expected, atol=1e-5 * scale, rtol=0)


def test_one_layer_by_hand():
    arch = zoo.named("fcn_resnet18", 3, width=0.125)
    variables = zoo.init(arch, jax.random.PRNGKey(0))
    layer = variables["params"]["block_00"]["conv1"]
    n = layer["norm"]["scale"].size
    layer["norm"] = {"scale": jnp.full(n, 3.0), "bias": jnp.full(n, 0.5)}
    running = variables["batch_stats"]["block_00"]["conv1"]
    running["norm"] = {"mean": jnp.full(n, 2.0), "var": jnp.full(n, 4.0 - arch.numbers.norm_eps)}
    _, folded = fold(arch, variables)
    ours = folded["params"]["block_00"]["conv1"]
    np.testing.assert_allclose(ours["kernel"], 1.5 * np.asarray(layer["kernel"]), rtol=1e-6)
    np.testing.assert_allclose(ours["bias"], np.full(n, 0.5 - 3.0), rtol=1e-6)
    assert set(ours) == {"kernel", "bias"} and folded["batch_stats"] == {}


def test_an_architecture_of_its_own():
    arch = zoo.named("fcn_resnet18", 3, width=0.125)
    variables = zoo.init(arch, jax.random.PRNGKey(0))
    folded, arrays = fold(arch, variables)
    assert folded.numbers.norm == FOLDED and from_json(to_json(folded)) == folded
    assert count(zoo.blocks(folded), 64, 64).norm_elements == 0
    assert count(zoo.blocks(folded), 64, 64).params == sum(map(np.size, jax.tree.leaves(arrays)))
    again = fold(folded, arrays)
    assert again[0] is folded and again[1] is arrays
