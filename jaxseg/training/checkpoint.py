"""Checkpoints: the one file that knows orbax.

A checkpoint is the whole train state, its journal, and a seal: digests of every array and of the journal. The journal
is read first: from it the caller builds the template (architecture, phase) that the state is restored into, so nothing
is guessed from files; the seal tells an intact checkpoint from a damaged one.
"""

import contextlib
import functools
import hashlib
import itertools
import json
import logging
import re
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from jax.sharding import SingleDeviceSharding
from orbax.checkpoint import checkpoint_managers as policies

from jaxseg.errors import RunFailed, UserError
from jaxseg.training.phases import Journal

NOT_DAMAGE = re.compile(
    "RESOURCE_EXHAUSTED|PERMISSION_DENIED|UNAVAILABLE|Permission denied|Input/output error"
)
"""In a message: the checkpoint may be whole, and cannot be read here and now."""

PLAIN = re.compile(
    "No space left on device|Disk quota exceeded|Read-only file system|Permission denied"
)
"""Causes that say enough, wherever they are in a message."""

MODEL = ("params/", "batch_stats/", "ema/")
"""Beginnings of the names of leaves that must be numbers."""


class Checkpoints:
    """Saves asynchronously into `folder`; keeps the last `keep_last` and the `keep_best` by val mIoU."""

    def __init__(self, folder: Path, *, keep_last: int = 2, keep_best: int = 1):
        if keep_last < 1:
            raise UserError("checkpoint.keep_last", got=keep_last, expected="1 or more")
        kept = [policies.LatestN(keep_last)]
        if keep_best:
            kept.append(
                policies.BestN(
                    get_metric_fn=lambda metrics: metrics["miou"],
                    n=keep_best,
                    keep_checkpoints_without_metrics=False,
                )
            )
        self.folder = Path(folder).absolute()
        _mute()
        alone = {"primary_host": jax.process_index(), "active_processes": {jax.process_index()}}
        self.folder.mkdir(parents=True, exist_ok=True)
        # What a kill left half written. Orbax can do this too, but in a thread, some time later.
        for left_over in self.folder.glob("*.orbax-checkpoint-tmp*"):
            shutil.rmtree(left_over, ignore_errors=True)
        self._manager = ocp.CheckpointManager(
            self.folder,
            options=ocp.CheckpointManagerOptions(
                create=False,
                # Of several processes one saves and restores; it needs no other for that.
                multiprocessing_options=ocp.options.MultiprocessingOptions(
                    **(alone if jax.process_count() > 1 else {})
                ),
                preservation_policy=policies.AnyPreservationPolicy(kept),
                # The loop decides when to save; orbax must not skip a save that it is told to make.
                enable_should_save_is_saving_in_progress_check=False,
            ),
            item_names=("state", "journal", "seal"),
        )

    def save(self, state: Any, journal: Journal, scores: dict[str, Any] | None) -> None:
        """Starts saving; returns once the state is copied, so that it may be donated at once.

        Raises:
            RunFailed: this checkpoint or the one before cannot be written, such as on a full disk; or the state holds
                what is no number.
        """
        if journal.step in self._manager.all_steps():
            return
        miou = (scores or {}).get("miou")
        # Our own copy: under pmap on CPU orbax was seen to save a state that the next, donating step had
        # already overwritten (tests/training/test_run.py::test_a_pmap_run_trains_and_resumes_exactly).
        state = jax.tree.map(np.array, state)
        _check_finite(state)
        with self._failing_in_one_line():
            self._manager.save(
                journal.step,
                args=ocp.args.Composite(
                    state=ocp.args.StandardSave(state),
                    journal=ocp.args.JsonSave(journal.to_dict()),
                    seal=ocp.args.JsonSave(_seal(state, journal.to_dict())),
                ),
                metrics=None if miou is None else {"miou": miou},
                force=True,
            )

    def newest(
        self, template: Callable[[Journal], Any], say: Callable[[str], None]
    ) -> tuple[Any, Journal] | None:
        """The state and journal of the newest intact checkpoint, or None if none was ever saved.

        One that is damaged (a file missing, cut or changed by a single bit: its seal tells) is said to be, put aside as
        `damaged_<step>` once an older one is found to be intact.

        Args:
            template: journal -> tree of jax.ShapeDtypeStruct: exactly this structure and these shapes and dtypes are
                restored, to one device of this process.
            say: told of what was damaged.

        Raises:
            UserError: an intact checkpoint does not fit the template, or none is intact; nothing is moved.
            RunFailed: one cannot be read for another reason, such as no memory or no permission.
        """
        damaged: dict[int, str] = {}
        for step in sorted(self._manager.all_steps(), reverse=True):
            try:
                found = self._open(step, template)
            except (UserError, RunFailed):
                raise
            except (
                Exception
            ) as error:  # orbax and tensorstore raise what they like, over a hundred lines
                damaged[step] = _first_line(error)
                if isinstance(error, MemoryError | PermissionError) or NOT_DAMAGE.search(
                    str(error)
                ):
                    raise RunFailed(
                        f"cannot read checkpoint {step} in {self.folder}: {damaged[step]}; nothing was changed"
                    ) from error
                continue
            # Nothing is moved before it is known that the run can go on.
            for bad, why in damaged.items():
                aside = self._put_aside(bad)
                say(
                    f"checkpoint {bad} in {self.folder} is damaged ({why}); put aside as {aside.name}"
                )
            return found
        if damaged:
            raise UserError(
                f"no checkpoint in {self.folder} is intact",
                got="; ".join(f"{step}: {why}" for step, why in damaged.items()),
                do="start again in a new --workdir, or put back a copy of the folder",
            )
        return None

    def _open(self, step: int, template: Callable[[Journal], Any]) -> tuple[Any, Journal]:
        """One checkpoint.

        Raises:
            UserError: it is intact and does not fit, or has no seal.
            Exception: it is damaged, or cannot be read.
        """
        if not (self.folder / str(step) / "seal").is_dir():
            raise UserError(
                f"checkpoint {step} in {self.folder} has no seal",
                do="use the jaxseg version that wrote it, or another --workdir",
            )
        seal = self._read(step, "seal")
        if seal.pop("self", None) != _digest_of_json(seal):
            raise ValueError("the seal differs from what was saved")
        record = self._read(step, "journal")
        if seal["journal"] != _digest_of_json(record):
            raise ValueError("the journal differs from what was saved")
        journal = Journal.from_dict(record)
        wanted = template(journal)
        self._check_fit(step, seal["leaves"], wanted)
        here = SingleDeviceSharding(jax.local_devices()[0])
        wanted = jax.tree.map(
            lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=here), wanted
        )
        args = ocp.args.Composite(state=ocp.args.StandardRestore(wanted))
        state = self._manager.restore(step, args=args)["state"]
        for name, leaf in _named_leaves(state):
            if _digest_of_array(leaf) != seal["leaves"][name][2]:
                raise ValueError(f"{name} differs from what was saved")
        return state, journal

    def _read(self, step: int, item: str) -> dict[str, Any]:
        args = ocp.args.Composite(**{item: ocp.args.JsonRestore()})
        return self._manager.restore(step, args=args)[item]

    def _check_fit(self, step: int, leaves: dict[str, Any], template: Any) -> None:
        """Orbax itself would cast a dtype without a word."""
        wanted = {n: [str(x.dtype), list(x.shape)] for n, x in _named_leaves(template)}
        for name in sorted(leaves.keys() | wanted.keys()):
            saved, want = leaves.get(name, [])[:2], wanted.get(name, [])
            if saved != want:
                said = ["nothing" if not x else f"{x[0]}{x[1]}" for x in (saved, want)]
                raise UserError(
                    f"checkpoint {step} in {self.folder} does not fit this run at {name}",
                    got=said[0],
                    expected=said[1],
                    do="use another --workdir, or the jaxseg version that wrote it",
                )

    def _put_aside(self, step: int) -> Path:
        """Moves a checkpoint beside the folder, under a name that is free."""
        names = (f"damaged_{step}{f'_{n}' if n else ''}" for n in itertools.count())
        aside = next(p for p in map(self.folder.with_name, names) if not p.exists())
        (self.folder / str(step)).rename(aside)
        self._manager.reload()
        return aside

    @contextlib.contextmanager
    def _failing_in_one_line(self) -> Iterator[None]:
        try:
            yield
        except (OSError, ValueError, RuntimeError) as error:
            raise RunFailed(
                f"cannot save a checkpoint in {self.folder}: {_first_line(error)}; those that are there stay, and the "
                "same command goes on from them"
            ) from error

    def wait(self) -> None:
        """Blocks until everything is on disk.

        Raises:
            RunFailed: something went wrong in the background.
        """
        with self._failing_in_one_line():
            self._manager.wait_until_finished()

    def close(self) -> None:
        """Waits, then lets go of threads."""
        with self._failing_in_one_line():
            self._manager.close()


def _seal(state: Any, journal: dict[str, Any]) -> dict[str, Any]:
    """Digests of everything that is saved: 'journal', and 'leaves': name -> [dtype, shape, digest]."""
    leaves = {
        name: [str(leaf.dtype), list(leaf.shape), _digest_of_array(leaf)]
        for name, leaf in _named_leaves(state)
    }
    seal = {"schema": 1, "journal": _digest_of_json(journal), "leaves": leaves}
    return {**seal, "self": _digest_of_json(seal)}


def _check_finite(state: Any) -> None:
    """Raises a RunFailed where a weight, statistic or average is no number: such a state is never saved."""
    for name, leaf in _named_leaves(state):
        numbers = np.issubdtype(leaf.dtype, np.floating)
        if name.startswith(MODEL) and numbers and not np.isfinite(leaf).all():
            raise RunFailed(
                f"training diverged: {name} is no number any more, this state is not saved; lower the learning rate "
                "or set optim.clip_norm, then start again in a new --workdir"
            )


def _mute() -> None:
    """What goes wrong is raised to us, and told in one line; not also by whoever saw it first.

    orbax logs each error with its traceback; and where one read has failed, those that go on in threads print one
    each, hundreds for a missing file: as coroutines that nobody waits for, or through asyncio.
    """
    for name in ("absl", "asyncio"):
        logger = logging.getLogger(name)
        if _not_of_orbax not in logger.filters:
            logger.addFilter(_not_of_orbax)
    before = sys.unraisablehook
    if getattr(before, "__wrapped__", None) is _mute:
        return

    @functools.wraps(_mute)
    def hook(what: Any) -> None:
        code = getattr(
            what.object, "cr_code", None
        )  # of a coroutine that nobody waits for any more
        ours = code is None or "orbax" not in code.co_filename
        if ours and str(what.exc_value) != "Event loop is closed":
            before(what)

    sys.unraisablehook = hook


def _not_of_orbax(record: logging.LogRecord) -> bool:
    if record.name == "asyncio":  # nothing else here uses it
        return "exception was never retrieved" not in record.getMessage()
    return "orbax" not in record.pathname


def _first_line(error: Exception) -> str:
    if found := PLAIN.search(str(error)):
        return found[0]
    return (str(error).strip().splitlines() or [""])[0][:160] or type(error).__name__


def _digest_of_array(leaf: Any) -> str:
    return hashlib.sha256(np.ascontiguousarray(np.asarray(leaf)).tobytes()).hexdigest()


def _digest_of_json(record: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(record, sort_keys=True).encode()).hexdigest()


def _named_leaves(tree: Any) -> list[tuple[str, Any]]:
    """(path, leaf) with paths spelled alike for dataclasses, dicts and orbax's own metadata trees."""
    is_leaf: Callable[[Any], bool] = lambda x: hasattr(x, "shape") and hasattr(x, "dtype")  # noqa: E731
    flat = jax.tree_util.tree_flatten_with_path(tree, is_leaf=is_leaf)[0]

    def key(part: Any) -> str:
        return str(getattr(part, "name", getattr(part, "key", getattr(part, "idx", part))))

    return [("/".join(key(part) for part in path), leaf) for path, leaf in flat if is_leaf(leaf)]
