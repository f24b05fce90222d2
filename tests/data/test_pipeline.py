"""Streams: the same batches whatever makes them, and nothing left behind."""

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from jaxseg.data import datasets
from jaxseg.data.pipeline import eval_stream, train_stream
from jaxseg.data.plan import EvalPlan, TrainPlan
from jaxseg.data.transforms import Augment
from jaxseg.errors import RunFailed, UserError
from tests.data import raw

AUGMENT = Augment(0.5, 2.0, 0.5, 0.3, 0.5)


@pytest.fixture(scope="module")
def split(tmp_path_factory):
    root = tmp_path_factory.mktemp("pipeline")
    raw.make_folder(root / "raw", splits=(("train", 10), ("val", 5)))
    return datasets.open_split(
        "folder", "train", dir=str(root / "raw"), cache_dir=str(root / "cache")
    )


def batches(split, *, start=0, stop=8, plan=None, seed=1, **options):
    plan = plan or TrainPlan(len(split), 4, seed=1, size_px=(24, 40))
    with train_stream(split, plan, AUGMENT, seed=seed, start=start, stop=stop, **options) as stream:
        return list(stream)


def assert_equal(first, second):
    assert len(first) == len(second)
    for a, b in zip(first, second, strict=True):
        assert a.keys() == b.keys()
        for key in a:
            np.testing.assert_array_equal(a[key], b[key])


def test_what_a_batch_is(split):
    plan = TrainPlan(len(split), 4, seed=1, size_px=(24, 40))
    for step, batch in enumerate(batches(split)):
        assert sorted(batch) == ["image", "index", "label", "weight"]
        assert batch["image"].shape == (4, 24, 40, 3) and batch["image"].dtype == np.uint8
        assert batch["label"].shape == (4, 24, 40) and batch["label"].dtype == np.uint8
        assert batch["weight"].tolist() == [1.0] * 4 and batch["weight"].dtype == np.float32
        assert batch["index"].dtype == np.int32
        np.testing.assert_array_equal(batch["index"], plan.at(step).indices)
        for i, index in enumerate(batch["index"]):
            epoch = plan.at(step).epoch
            example, rng = split[index], np.random.default_rng((1, epoch, index))
            image, label = AUGMENT(example["image"], example["label"], size_px=(24, 40), rng=rng)
            np.testing.assert_array_equal(batch["image"][i], image)
            np.testing.assert_array_equal(batch["label"][i], label)


@pytest.mark.parametrize("workers", [0, 2, 3])
def test_workers_and_resuming_change_nothing(split, workers):
    before = sorted(os.listdir("/dev/shm"))
    whole = batches(split)
    again = batches(split, start=3, num_workers=workers, prefetch=3)
    assert_equal(whole[3:], again)
    assert sorted(os.listdir("/dev/shm")) == before
    assert not multiprocessing.active_children()


def test_epochs_and_seeds_differ(split):
    first = batches(split, stop=40)
    views = {}
    for batch in first:
        for image, index in zip(batch["image"], batch["index"], strict=True):
            views.setdefault(int(index), []).append(image.tobytes())
    assert all(len(set(seen)) == len(seen) > 5 for seen in views.values())
    other = batches(split, seed=2)
    assert (first[0]["index"] == other[0]["index"]).all()
    assert (first[0]["image"] != other[0]["image"]).any()


def test_copies_of_an_example_in_one_batch_differ(split):
    plan = TrainPlan(1, 4, seed=0, size_px=(24, 40))
    batch = batches(split, plan=plan, stop=1)[0]
    assert batch["index"].tolist() == [0] * 4
    assert len({image.tobytes() for image in batch["image"]}) == 4


def test_hosts_share_out_every_batch(split):
    whole = batches(split)
    parts = [batches(split, process_index=i, process_count=2) for i in range(2)]
    joined = [
        {key: np.concatenate([a[key], b[key]]) for key in a} for a, b in zip(*parts, strict=True)
    ]
    assert_equal(whole, joined)
    with pytest.raises(UserError, match="multiple of 3"):
        batches(split, process_count=3)


def test_stopping_early_leaves_nothing_behind(split):
    before = sorted(os.listdir("/dev/shm"))
    plan = TrainPlan(len(split), 4, seed=1, size_px=(24, 40))
    options = dict(seed=1, start=0, stop=1000)
    stream = train_stream(split, plan, AUGMENT, num_workers=2, **options)
    kept = next(stream)
    stream.close()
    stream.close()
    assert next(stream, None) is None
    assert sorted(os.listdir("/dev/shm")) == before
    assert not multiprocessing.active_children()
    # What was handed out stays good.
    assert_equal([kept], batches(split, stop=1))
    threads = train_stream(split, plan, AUGMENT, **options)
    assert_equal([kept], [next(threads)])
    threads.close()
    assert next(threads, None) is None


def test_a_program_that_forgets_to_close_ends_quietly(tmp_path):
    code = (
        "import sys\n"
        "from jaxseg.data import datasets, pipeline, plan, transforms\n"
        "if __name__ == '__main__':\n"
        "    split = datasets.open_split('folder', 'train', dir=sys.argv[1], cache_dir=sys.argv[2])\n"
        "    p = plan.TrainPlan(len(split), 4, 1, (24, 40))\n"
        "    stream = pipeline.train_stream(split, p, transforms.Augment(), seed=1, start=0,"
        " stop=100, num_workers=2)\n"
        "    kept = next(stream)\n"
        "    print(kept['image'].shape)\n"
    )
    (tmp_path / "program.py").write_text(code)
    root = raw.make_folder(tmp_path / "raw")
    before = sorted(os.listdir("/dev/shm"))
    done = subprocess.run(
        [sys.executable, str(tmp_path / "program.py"), str(root), str(tmp_path / "cache")],
        capture_output=True,
        text=True,
        timeout=60,
        env={**os.environ, "PYTHONPATH": str(raw.REPOSITORY)},
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "(4, 24, 40, 3)\n", "")
    assert sorted(os.listdir("/dev/shm")) == before


@pytest.mark.parametrize("workers", [0, 2])
def test_an_unreadable_example_is_one_line_that_names_it(tmp_path, workers):
    root, cache = raw.make_folder(tmp_path / "raw"), tmp_path / "cache"
    options = dict(dir=str(root), cache_dir=str(cache), decoded_cache=False)
    split = datasets.open_split("folder", "train", **options)
    for path in cache.rglob("*train.array_record*"):
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(UserError, match=r"damaged; remove that folder") as error:
        batches(split, num_workers=workers)
    assert "\n" not in str(error.value)


class _Bug:
    """A split with a mistake of ours in it."""

    names = ["a"] * 10

    def __len__(self):
        return 10

    def __getitem__(self, i):
        raise ZeroDivisionError("ours")


class _Gone(_Bug):
    def __getitem__(self, i):
        raise OSError(5, "Input/output error")


@pytest.mark.parametrize("workers", [0, 2])
def test_our_bugs_stay_bugs_and_the_disk_is_the_user_s(workers):
    with pytest.raises(RunFailed, match="cannot make a: ZeroDivisionError: ours") as error:
        batches(_Bug(), num_workers=workers)
    assert "\n" not in str(error.value)
    assert "in __getitem__" in str(error.value.__cause__)  # whoever wants the whole story
    with pytest.raises(UserError, match="cannot read a: got .*Input/output error"):
        batches(_Gone(), num_workers=workers)
    assert not multiprocessing.active_children()


@pytest.mark.parametrize("workers", [0, 2])
def test_evaluation_shows_everything_once(split, workers):
    plan = EvalPlan(split.sizes_px, 4)
    seen = []
    with eval_stream(split, plan, num_workers=workers, fill=(1, 2, 3)) as stream:
        for batch in stream:
            assert batch["image"].shape[1] % 32 == 0 and batch["size_px"].dtype == np.int32
            for i, index in enumerate(batch["index"]):
                h, w = batch["size_px"][i]
                outside = np.ones(batch["label"][i].shape, bool)
                outside[:h, :w] = False
                assert (batch["label"][i][outside] == 255).all()
                assert (batch["image"][i][outside] == (1, 2, 3)).all()
                assert batch["weight"][i] == (index >= 0)
                if index < 0:
                    assert (h, w) == (0, 0)
                    continue
                seen.append(int(index))
                np.testing.assert_array_equal(batch["image"][i, :h, :w], split[index]["image"])
                np.testing.assert_array_equal(batch["label"][i, :h, :w], split[index]["label"])
    assert sorted(seen) == list(range(10)) and len(seen) == 10


def test_impossible_numbers(split):
    for options in (dict(num_workers=-1), dict(prefetch=0)):
        with pytest.raises(UserError, match="data.num_workers, data.prefetch"):
            batches(split, **options)


class _Killing(_Bug):
    """The process that reads the n-th example is killed."""

    def __init__(self, at):
        self._left = at
        self.spec = None

    def __getitem__(self, i):
        self._left -= 1
        if self._left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return {"image": np.zeros((90, 120, 3), np.uint8), "label": np.zeros((90, 120), np.uint8)}


@pytest.mark.parametrize("at", [1, 9])
def test_a_worker_that_is_killed_is_one_line_and_soon(at):
    begin_s = time.monotonic()
    with pytest.raises(RunFailed, match="ended by signal 9") as error:
        batches(_Killing(at), num_workers=2)
    assert "\n" not in str(error.value) and time.monotonic() - begin_s < 30
    assert not multiprocessing.active_children()


def test_a_worker_killed_while_it_writes(split):
    """A batch is larger than a pipe, so a worker that is ahead is in the middle of a message."""
    plan = TrainPlan(len(split), 4, seed=1, size_px=(256, 512))
    with train_stream(split, plan, AUGMENT, seed=1, start=0, stop=50, num_workers=1) as stream:
        next(stream)
        time.sleep(1)
        (worker,) = multiprocessing.active_children()
        os.kill(worker.pid, signal.SIGKILL)
        with pytest.raises(RunFailed, match="ended by signal 9"):
            for _ in range(10):
                next(stream)
        with pytest.raises((RunFailed, StopIteration)):
            next(stream)


def test_workers_end_when_their_parent_is_killed(tmp_path):
    code = (
        "import multiprocessing, os, signal\n"
        "from jaxseg.data import workers\n"
        "def make(n): return bytes(10**6)\n"
        "if __name__ == '__main__':\n"
        "    stream = workers.Workers(make, 0, 10**6, count=2, ahead=2)\n"
        "    next(stream)\n"
        "    print(*(p.pid for p in multiprocessing.active_children()), flush=True)\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    file = tmp_path / "killed.py"
    file.write_text(code)
    env = {**os.environ, "PYTHONPATH": os.getcwd()}
    done = subprocess.run([sys.executable, file], capture_output=True, text=True, env=env)
    assert done.returncode == -signal.SIGKILL
    pids, limit = [int(x) for x in done.stdout.split()], time.monotonic() + 10
    assert len(pids) == 2
    while any(_alive(p) for p in pids) and time.monotonic() < limit:
        time.sleep(0.05)
    assert not any(_alive(p) for p in pids)


def _alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
