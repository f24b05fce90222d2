"""Checkpoints: the one file that knows orbax.

A checkpoint is the whole train state, its journal, and a seal: digests of every array and of the journal. The journal
is read first: from it the caller builds the template (architecture, phase) that the state is restored into, so nothing
is guessed from files; the seal tells an intact checkpoint from a damaged one.
"""

import contextlib
import hashlib
import itertools
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from orbax.checkpoint import checkpoint_managers as policies

from jaxseg.errors import RunFailed, UserError
from jaxseg.training.phases import Journal


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
        self._manager = ocp.CheckpointManager(
            self.folder,
            options=ocp.CheckpointManagerOptions(
                preservation_policy=policies.AnyPreservationPolicy(kept),
                cleanup_tmp_directories=True,
                # The loop decides when to save; orbax must not skip a save that it is told to make.
                enable_should_save_is_saving_in_progress_check=False,
            ),
            item_names=("state", "journal", "seal"),
        )

    def save(self, state: Any, journal: Journal, scores: dict[str, Any] | None) -> None:
        """Starts saving; returns once the state is copied, so that it may be donated at once.

        Raises:
            RunFailed: this checkpoint or the one before cannot be written, such as on a full disk.
        """
        if journal.step in self._manager.all_steps():
            return
        miou = (scores or {}).get("miou")
        # Our own copy: under pmap on CPU orbax was seen to save a state that the next, donating step had
        # already overwritten (tests/training/test_run.py::test_a_pmap_run_trains_and_resumes_exactly).
        state = jax.tree.map(np.array, state)
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
        `damaged_<step>`, and the one before is tried.

        Args:
            template: journal -> tree of jax.ShapeDtypeStruct with shardings: exactly this structure and these shapes
                and dtypes are restored.
            say: told of what was damaged.

        Raises:
            UserError: an intact checkpoint does not fit the template, or none is intact.
        """
        steps = sorted(self._manager.all_steps(), reverse=True)
        for step in steps:
            try:
                found = self._open(step, template)
            except UserError:
                raise
            except (
                Exception
            ) as error:  # orbax and tensorstore raise what they like, over a hundred lines
                why = str(error).strip().splitlines()[0][:120] or type(error).__name__
                say(f"checkpoint {step} in {self.folder} is damaged ({why}); put aside")
                (self.folder / str(step)).rename(self._aside(step))
                self._manager.reload()
                continue
            return found
        if steps:
            raise UserError(
                f"no checkpoint in {self.folder} is intact",
                do="start again in a new --workdir, or put back a copy of the folder",
            )
        return None

    def _open(self, step: int, template: Callable[[Journal], Any]) -> tuple[Any, Journal]:
        """One checkpoint.

        Raises:
            UserError: it is intact and does not fit.
            Exception: it is damaged.
        """
        args = ocp.args.Composite(journal=ocp.args.JsonRestore(), seal=ocp.args.JsonRestore())
        read = self._manager.restore(step, args=args)
        seal = read["seal"]
        if seal["journal"] != _digest_of_json(read["journal"]):
            raise ValueError("the journal differs from what was saved")
        journal = Journal.from_dict(read["journal"])
        if journal.step != step:
            raise ValueError(f"it holds step {journal.step}")
        wanted = template(journal)
        self._check_fit(step, seal["leaves"], wanted)
        args = ocp.args.Composite(state=ocp.args.StandardRestore(wanted))
        state = self._manager.restore(step, args=args)["state"]
        for name, leaf in _named_leaves(state):
            if _digest_of_array(leaf) != seal["leaves"][name][2]:
                raise ValueError(f"{name} differs from what was saved")
        return state, journal

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

    def _aside(self, step: int) -> Path:
        """A name that is free."""
        for number in itertools.count():
            path = self.folder.parent / f"damaged_{step}{f'_{number}' if number else ''}"
            if not path.exists():
                return path
        raise AssertionError

    @contextlib.contextmanager
    def _failing_in_one_line(self) -> Iterator[None]:
        try:
            yield
        except (OSError, ValueError, RuntimeError) as error:
            why = str(error).strip().splitlines()[0][:200]
            raise RunFailed(
                f"cannot save a checkpoint in {self.folder}: {why}; the checkpoints that are there stay, and the same "
                "command goes on from them"
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
    return {"schema": 1, "journal": _digest_of_json(journal), "leaves": leaves}


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
