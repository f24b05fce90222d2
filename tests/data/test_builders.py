"""Preparation: nothing stale, nothing half made, and no TensorFlow."""

import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from jaxseg.data import datasets, preparation, store
from jaxseg.data.builders import toy_samples
from jaxseg.errors import UserError
from tests.data import raw


def prepare(root, cache, **options):
    return datasets.prepare("folder", dir=str(root), cache_dir=str(cache), **options)


def test_a_changed_folder_is_never_served_stale(tmp_path):
    root, cache = raw.make_folder(tmp_path / "raw"), tmp_path / "cache"
    first = prepare(root, cache)
    assert prepare(root, cache) == first
    image = np.full((24, 32, 3), 77, np.uint8)
    raw.write(root / "images" / "train" / "0.png", image)
    assert prepare(root, cache) != first
    split = datasets.open_split("folder", "train", dir=str(root), cache_dir=str(cache))
    np.testing.assert_array_equal(split[0]["image"], image)
    # Same bytes, another time: cannot be told from a change without reading, so it is made anew.
    again = prepare(root, cache)
    os.utime(root / "labels" / "train" / "0.png", ns=(1, 1))
    assert prepare(root, cache) != again


def test_progress_is_told_and_a_second_time_nothing_is_done(tmp_path):
    root, told = raw.make_folder(tmp_path / "raw"), []
    tell = lambda *args: told.append(args)  # noqa: E731
    prepare(root, tmp_path / "cache", on_progress=tell)
    assert ("checking train", 4, 4) in told and ("writing val", 2, 2) in told
    told.clear()
    prepare(root, tmp_path / "cache", on_progress=tell)
    assert not told


def test_preparation_prints_nothing_on_stdout(tmp_path, capfd):
    prepare(raw.make_folder(tmp_path / "raw"), tmp_path / "cache")
    assert capfd.readouterr().out == ""


def test_bad_labels_are_counted_and_the_first_named(tmp_path):
    root, cache = raw.make_folder(tmp_path / "raw", splits=(("train", 6),)), tmp_path / "cache"
    (root / "classes.txt").write_text("a\nb\nc\n")
    for i in range(5):
        label = np.zeros((24, 32), np.uint8)
        label[0, :7] = 200 + i
        raw.write(root / "labels" / "train" / f"{i}.png", label)
        raw.write(root / "images" / "train" / f"{i}.png", np.zeros((24, 32, 3), np.uint8))
    (root / "images" / "train" / "1.jpg").unlink()
    with pytest.raises(UserError) as error:
        prepare(root, cache)
    said = str(error.value)
    assert "5 problems" in said and "labels/train/0.png: wrong label values 200 (7 px)" in said
    assert "and 2 more" in said and "python -m jaxseg.data check" in said and "\n" not in said
    assert not [p for p in (cache / "prepared" / "folder").iterdir() if p.is_dir()]


def test_an_empty_split_is_refused(tmp_path):
    root = raw.make_folder(tmp_path / "raw")
    (root / "images" / "test").mkdir()
    (root / "labels" / "test").mkdir()
    with pytest.raises(UserError, match="test: split without images"):
        prepare(root, tmp_path / "cache")


def test_an_interrupted_preparation_leaves_nothing_complete(tmp_path):
    final = tmp_path / "set" / "abc"

    def half(staging):
        (staging / "part").write_text("half")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        store.make_once(final, half)
    assert not final.exists()
    # A killed process cannot clean up; the next attempt does.
    (final.parent / f"{store.UNFINISHED}abc-dead").mkdir()
    store.make_once(final, lambda staging: (staging / "whole").write_text("whole"))
    assert [p.name for p in final.parent.iterdir() if p.is_dir()] == ["abc"]
    assert [p.name for p in final.iterdir()] == ["whole"]


def test_killed_while_preparing(tmp_path):
    root, cache = raw.make_folder(tmp_path / "raw"), tmp_path / "cache"
    code = (
        "import sys, time; from jaxseg.data import datasets\n"
        "def tell(what, done, total):\n"
        "    if what == 'writing val': print('half', flush=True); time.sleep(60)\n"
        "datasets.prepare('folder', dir=sys.argv[1], cache_dir=sys.argv[2], on_progress=tell)\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(root), str(cache)],
        stdout=subprocess.PIPE,
        cwd=raw.REPOSITORY,
    )
    with process:
        assert process.stdout.readline() == b"half\n"
        process.send_signal(signal.SIGKILL)
    left = [p.name for p in (cache / "prepared" / "folder").iterdir() if p.is_dir()]
    assert len(left) == 1 and left[0].startswith(store.UNFINISHED)
    prepare(root, cache)
    split = datasets.open_split("folder", "val", dir=str(root), cache_dir=str(cache))
    assert split[1]["image"].shape[2] == 3
    left = [p.name for p in (cache / "prepared" / "folder").iterdir() if p.is_dir()]
    assert len(left) == 1 and not left[0].startswith(store.UNFINISHED)


def _prepare_and_sum(root, cache, results):
    split = datasets.open_split("folder", "train", dir=root, cache_dir=cache)
    results.put([int(split[i]["image"].sum()) for i in range(len(split))])


def test_two_processes_at_once(tmp_path):
    root, cache = raw.make_folder(tmp_path / "raw"), tmp_path / "cache"
    context = multiprocessing.get_context("spawn")
    results = context.Queue()
    args = (str(root), str(cache), results)
    both = [context.Process(target=_prepare_and_sum, args=args) for _ in range(2)]
    for process in both:
        process.start()
    sums = [results.get(timeout=60) for _ in both]
    for process in both:
        process.join()
    assert sums[0] == sums[1] and len(sums[0]) == 4
    assert len([p for p in (cache / "prepared" / "folder").iterdir() if p.is_dir()]) == 1


def test_losing_the_race_without_a_lock_does_no_harm(tmp_path, monkeypatch):
    def no_lock(*args):
        raise OSError("no locks here")

    monkeypatch.setattr(store.fcntl, "flock", no_lock)
    final = tmp_path / "set" / "abc"

    def make(staging):
        (staging / "mine").write_text("late")
        final.mkdir()
        (final / "theirs").write_text("early")

    assert store.make_once(final, make) == final
    assert [p.name for p in final.iterdir()] == ["theirs"]
    assert len([p for p in final.parent.iterdir() if p.is_dir()]) == 1


def test_a_disk_that_cannot_be_written_is_one_line(tmp_path):
    blocked = tmp_path / "file"
    blocked.write_text("not a folder")
    with pytest.raises(UserError, match="cannot write .*data.cache_dir"):
        prepare(raw.make_folder(tmp_path / "raw"), blocked)


def test_no_room_for_the_decoded_cache(tmp_path, monkeypatch):
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(preparation.shutil, "disk_usage", lambda path: usage._replace(free=100))
    with pytest.raises(UserError, match="data.decoded_cache=False"):
        root = raw.make_folder(tmp_path / "raw")
        datasets.open_split("folder", "train", dir=str(root), cache_dir=str(tmp_path / "cache"))


@pytest.mark.parametrize("decoded", [True, False])
def test_a_damaged_copy_is_named(tmp_path, decoded):
    root, cache = raw.make_folder(tmp_path / "raw"), tmp_path / "cache"
    options = dict(dir=str(root), cache_dir=str(cache), decoded_cache=decoded)
    folder = prepare(root, cache)
    datasets.open_split("folder", "train", **options)
    pattern = "images.bin" if decoded else "*train.array_record*"
    for path in folder.rglob(pattern):
        path.write_bytes(b"")
    with pytest.raises(UserError, match="damaged; remove that folder"):
        datasets.open_split("folder", "train", **options)[0]
    (folder / "index.json").write_text("{")
    with pytest.raises(UserError, match="damaged"):
        datasets.open_split("folder", "train", **options)


def test_helpers_draw_the_same_samples_in_order(monkeypatch):
    monkeypatch.setattr(toy_samples, "WORTH_S", 0)
    monkeypatch.setattr(toy_samples.os, "sched_getaffinity", lambda pid: {0, 1})
    alone = [toy_samples.encoded("calib", i) for i in range(5)]
    assert list(toy_samples.all_encoded("calib", 5)) == alone
    # Stopping early ends the helpers: a process left behind would be a ResourceWarning, so an error.
    some = toy_samples.all_encoded("calib", 100)
    assert next(some) == alone[0]
    some.close()
    monkeypatch.setattr(toy_samples.sys, "executable", shutil.which("false"))
    with pytest.raises(RuntimeError, match="ended early, status 1"):
        next(toy_samples.all_encoded("calib", 5))


def test_neither_tensorflow_nor_flax_is_imported(tmp_path):
    root = raw.make_folder(tmp_path / "raw")
    code = (
        "import sys; from jaxseg.data import check, datasets, pipeline, stats\n"
        "s = datasets.open_split('folder', 'train', dir=sys.argv[1], cache_dir=sys.argv[2],"
        " decoded_cache=False)\n"
        "s[0]\n"
        "assert not {'tensorflow', 'flax', 'torch'} & set(sys.modules)\n"
    )
    start = time.monotonic()
    command = [sys.executable, "-c", code, str(root), str(tmp_path / "cache")]
    subprocess.run(command, check=True, cwd=raw.REPOSITORY)
    assert time.monotonic() - start < 60
