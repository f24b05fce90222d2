"""Checkpoints: last N and best are kept, bits survive, and what does not fit is refused in one line."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxseg.errors import UserError
from jaxseg.training.checkpoint import Checkpoints
from jaxseg.training.phases import Journal
from tests.fakes import small_arch


def journal(step):
    return Journal(step=step, phase=0, phase_step=step, arch=small_arch())


def state(step=0):
    return {"a": jnp.arange(6.0).reshape(2, 3) + step, "step": jnp.int32(step), "none": None}


def template(**changes):
    shapes = jax.eval_shape(state) | changes
    place = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=place), shapes)


def test_last_and_best_are_kept(tmp_path):
    saved = Checkpoints(tmp_path, keep_last=2, keep_best=1)
    for step, miou in [(1, 0.2), (2, 0.7), (3, None), (4, 0.5), (5, 0.6), (6, None)]:
        saved.save(state(step), journal(step), None if miou is None else {"miou": miou})
        saved.wait()
    saved.close()
    assert sorted(int(p.name) for p in tmp_path.iterdir() if p.name.isdigit()) == [2, 5, 6]


def test_the_newest_comes_back_bit_for_bit(tmp_path):
    saved = Checkpoints(tmp_path)
    saved.save(state(3), journal(3), None)
    saved.save(state(4), journal(4), None)
    saved.wait()
    saved.close()
    again = Checkpoints(tmp_path)
    found = again.latest()
    assert found == journal(4)
    restored = again.restore(found, template())
    np.testing.assert_array_equal(restored["a"], state(4)["a"])
    assert restored["none"] is None
    again.close()


def test_an_empty_folder_has_none(tmp_path):
    saved = Checkpoints(tmp_path)
    assert saved.latest() is None
    saved.close()


@pytest.mark.parametrize(
    "changes, says",
    [
        ({"a": jax.ShapeDtypeStruct((2, 3), jnp.int8)}, r"float32\[2, 3\]; expected int8\[2, 3\]"),
        ({"a": jax.ShapeDtypeStruct((3, 2), jnp.float32)}, r"expected float32\[3, 2\]"),
    ],
)
def test_another_dtype_or_shape_is_refused(tmp_path, changes, says):
    saved = Checkpoints(tmp_path)
    saved.save(state(1), journal(1), None)
    saved.wait()
    with pytest.raises(UserError, match=says):
        saved.restore(saved.latest(), template(**changes))
    saved.close()


def test_a_leaf_too_many_is_refused(tmp_path):
    saved = Checkpoints(tmp_path)
    saved.save(state(1), journal(1), None)
    saved.wait()
    shapes = template()
    del shapes["a"]
    with pytest.raises(UserError, match="expected nothing"):
        saved.restore(saved.latest(), shapes)
    saved.close()


def test_the_journal_survives_json():
    full = journal(7)
    full.evidence.append({"phase": "x", "steps": 3, "ended_by": "until"})
    full.describe_extra({"mask": {"block_01": np.zeros((3, 2), np.int8)}})
    again = Journal.from_dict(full.to_dict())
    assert again == full
    leaf = again.extra_template()["mask"]["block_01"]
    assert (leaf.shape, leaf.dtype) == ((3, 2), np.int8)
    with pytest.raises(UserError, match="schema"):
        Journal.from_dict({**full.to_dict(), "schema": 2})
