"""Checkpoints: last N and best are kept, bits survive, and what does not fit is refused in one line."""

import contextlib
import logging
import shutil
import subprocess
import sys
from types import FunctionType, SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxseg.errors import RunFailed, UserError
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


def saved_steps(folder, *steps):
    saved = Checkpoints(folder)
    for step in steps:
        saved.save(state(step), journal(step), None)
        saved.wait()
    saved.close()


def newest(folder, shapes=None):
    """(state, journal, what was said), or None."""
    said = []
    again = Checkpoints(folder)
    try:
        found = again.newest(lambda _: shapes or template(), said.append)
    finally:
        again.close()
    return found and (*found, said)


def test_the_newest_comes_back_bit_for_bit(tmp_path):
    saved_steps(tmp_path, 3, 4)
    restored, found, said = newest(tmp_path)
    assert found == journal(4) and said == []
    np.testing.assert_array_equal(restored["a"], state(4)["a"])
    assert restored["none"] is None


def test_an_empty_folder_has_none(tmp_path):
    assert newest(tmp_path) is None


@pytest.mark.parametrize(
    "changes, says",
    [
        ({"a": jax.ShapeDtypeStruct((2, 3), jnp.int8)}, r"float32\[2, 3\]; expected int8\[2, 3\]"),
        ({"a": jax.ShapeDtypeStruct((3, 2), jnp.float32)}, r"expected float32\[3, 2\]"),
        (
            {"b": jax.ShapeDtypeStruct((1,), jnp.float32)},
            r"at b: got nothing; expected float32\[1\]",
        ),
    ],
)
def test_another_dtype_shape_or_leaf_is_refused(tmp_path, changes, says):
    saved_steps(tmp_path, 1)
    with pytest.raises(UserError, match=says):
        newest(tmp_path, template(**changes))
    assert (tmp_path / "1").exists()


def test_a_leaf_too_many_is_refused(tmp_path):
    saved_steps(tmp_path, 1)
    shapes = template()
    del shapes["a"]
    with pytest.raises(UserError, match="expected nothing"):
        newest(tmp_path, shapes)


def flip(path, at=0.5):
    data = bytearray(path.read_bytes())
    data[int(at * len(data))] ^= 4
    path.write_bytes(data)


DAMAGES = {
    "flipped": flip,
    "cut": lambda path: path.write_bytes(path.read_bytes()[: path.stat().st_size // 2]),
    "empty": lambda path: path.write_bytes(b""),
    "missing": lambda path: path.unlink(),
}


# What orbax leaves behind when a file is not what it expects: an event loop that nobody closed.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("damage", DAMAGES)
def test_damage_to_any_file_falls_back_or_changes_nothing(tmp_path, damage):
    """Every file of the newest checkpoint in turn: what comes back is one of the two, to the bit."""
    saved_steps(tmp_path / "whole", 3, 4)
    files = [p for p in (tmp_path / "whole" / "4").rglob("*") if p.is_file() and p.stat().st_size]
    fell_back = 0
    for number, path in enumerate(files):
        folder = tmp_path / str(number)
        shutil.copytree(tmp_path / "whole", folder / "checkpoints")
        DAMAGES[damage](folder / "checkpoints" / path.relative_to(tmp_path / "whole"))
        restored, found, said = newest(folder / "checkpoints")
        np.testing.assert_array_equal(restored["a"], state(found.step)["a"])
        assert found == journal(found.step)
        if found.step == 3:
            fell_back += 1
            assert len(said) == 1 and "checkpoint 4" in said[0] and "\n" not in said[0]
            assert (folder / "damaged_4").exists()
            # The place is free again: a run that goes on can save there.
            saved_steps(folder / "checkpoints", 4)
            assert newest(folder / "checkpoints")[1].step == 4
    assert fell_back >= 3  # arrays, journal, seal


@pytest.mark.parametrize("where, told", [("site-packages/orbax/x.py", False), ("ours.py", True)])
def test_reads_that_nobody_waits_for_say_nothing(tmp_path, monkeypatch, caplog, where, told):
    """Both ways in which asyncio tells of them: as it lets go of a coroutine, and of a future."""
    heard = []
    monkeypatch.setattr(sys, "unraisablehook", lambda what: heard.append(what.object))
    Checkpoints(tmp_path).close()

    async def read():
        raise ValueError("gone")

    one = FunctionType(read.__code__.replace(co_filename=where), {"ValueError": ValueError})()
    what = SimpleNamespace(exc_value=ValueError("gone"), object=one)
    with pytest.raises(ValueError, match="gone") as error:
        one.send(None)
    sys.unraisablehook(what)
    log = logging.getLogger("asyncio")
    with caplog.at_level(logging.ERROR):
        log.error("Future exception was never retrieved", exc_info=error.value)
        log.error("anything else")
    assert (heard == [one], len(caplog.records)) == (told, 1)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_no_intact_one_is_said_and_nothing_is_started_over(tmp_path):
    saved_steps(tmp_path / "checkpoints", 3)
    for path in (tmp_path / "checkpoints" / "3").rglob("*"):
        if path.is_file():
            path.write_bytes(b"")
    for _ in range(2):  # nothing is moved, so it is refused again and not started over
        with pytest.raises(UserError, match="no checkpoint .* is intact"):
            newest(tmp_path / "checkpoints")


def test_what_cannot_be_read_is_not_damaged(tmp_path):
    saved_steps(tmp_path, 3, 4)

    def full(_):
        raise ValueError("RESOURCE_EXHAUSTED: out of memory")

    again = Checkpoints(tmp_path)
    with pytest.raises(RunFailed, match="nothing was changed"):
        again.newest(full, print)
    again.close()
    assert newest(tmp_path)[1].step == 4


def test_one_without_a_seal_is_refused_and_stays(tmp_path):
    saved_steps(tmp_path, 3)
    shutil.rmtree(tmp_path / "3" / "seal")
    with pytest.raises(UserError, match="no seal"):
        newest(tmp_path)
    assert (tmp_path / "3").exists()


@pytest.mark.parametrize("part", ["params", "batch_stats", "ema"])
def test_what_is_no_number_is_never_saved(tmp_path, part):
    saved = Checkpoints(tmp_path)
    saved.save({"params": {"a": np.float32(1)}, "opt_state": np.float32(np.inf)}, journal(1), None)
    with pytest.raises(RunFailed, match=f"{part}/a is no number"):
        saved.save({part: {"a": np.float32(np.nan)}}, journal(2), None)
    saved.close()
    assert [p.name for p in tmp_path.iterdir() if p.name.isdigit()] == ["1"]


def test_a_left_over_temporary_folder_is_removed(tmp_path):
    saved_steps(tmp_path, 3)
    stray = tmp_path / "4.orbax-checkpoint-tmp"
    shutil.copytree(tmp_path / "3", stray)
    assert newest(tmp_path)[1].step == 3
    assert not stray.exists()


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 3 MB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", str(folder)]
    if shutil.which("mount") is None or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("needs the right to mount a small tmpfs")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_a_full_disk_keeps_the_step_before(small_disk):
    saved_steps(small_disk, 1)
    saved = Checkpoints(small_disk, keep_last=1)
    noise = np.random.default_rng(0).integers(0, 256, 8_000_000, np.uint8)
    with pytest.raises(RunFailed, match="cannot save a checkpoint") as error:
        saved.save({**state(2), "noise": noise}, journal(2), None)
        saved.wait()
    assert "\n" not in str(error.value) and str(small_disk) in str(error.value)
    with contextlib.suppress(RunFailed):
        saved.close()
    restored, found, said = newest(small_disk)
    assert found.step == 1 and said == []
    np.testing.assert_array_equal(restored["a"], state(1)["a"])


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
