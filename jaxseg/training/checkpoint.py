"""Checkpoints: the one file that knows orbax.

A checkpoint is the whole train state plus its journal. The journal is read first: from it the caller builds
the template (architecture, phase) that the state is restored into, so nothing is guessed from files.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from orbax.checkpoint import checkpoint_managers as policies

from jaxseg.errors import UserError
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
            item_names=("state", "journal"),
        )

    def save(self, state: Any, journal: Journal, scores: dict[str, Any] | None) -> None:
        """Starts saving; returns once the state is copied, so that it may be donated at once."""
        if journal.step in self._manager.all_steps():
            return
        miou = (scores or {}).get("miou")
        # Our own copy: under pmap on CPU orbax was seen to save a state that the next, donating step had
        # already overwritten (tests/training/test_run.py::test_a_pmap_run_trains_and_resumes_exactly).
        state = jax.tree.map(np.array, state)
        self._manager.save(
            journal.step,
            args=ocp.args.Composite(
                state=ocp.args.StandardSave(state), journal=ocp.args.JsonSave(journal.to_dict())
            ),
            metrics=None if miou is None else {"miou": miou},
            force=True,
        )

    def latest(self) -> Journal | None:
        """The journal of the newest complete checkpoint, or None."""
        step = self._manager.latest_step()
        if step is None:
            return None
        found = self._manager.restore(step, args=ocp.args.Composite(journal=ocp.args.JsonRestore()))
        return Journal.from_dict(found["journal"])

    def restore(self, journal: Journal, template: Any) -> Any:
        """The state that belongs to `journal`, with exactly the template's structure, shapes and dtypes.

        Args:
            journal: from `latest`.
            template: tree of jax.ShapeDtypeStruct with shardings.

        Raises:
            UserError: a leaf differs (orbax itself would cast a dtype without a word).
        """
        saved = self._manager.item_metadata(journal.step)["state"]
        wanted = dict(_named_leaves(template))
        for name, leaf in _named_leaves(saved):
            want = wanted.get(name)
            if want is None or (tuple(leaf.shape), leaf.dtype) != (want.shape, want.dtype):
                raise UserError(
                    f"checkpoint {journal.step} in {self.folder} does not fit this run at {name}",
                    got=f"{np.dtype(leaf.dtype)}{list(leaf.shape)}",
                    expected="nothing" if want is None else f"{want.dtype}{list(want.shape)}",
                    do="use another --workdir, or the jaxseg version that wrote it",
                )
        args = ocp.args.Composite(state=ocp.args.StandardRestore(template))
        return self._manager.restore(journal.step, args=args)["state"]

    def wait(self) -> None:
        """Blocks until everything is on disk; raises what went wrong in the background."""
        self._manager.wait_until_finished()

    def close(self) -> None:
        """Waits, then lets go of threads."""
        self._manager.close()


def _named_leaves(tree: Any) -> list[tuple[str, Any]]:
    """(path, leaf) with paths spelled alike for dataclasses, dicts and orbax's own metadata trees."""
    is_leaf: Callable[[Any], bool] = lambda x: hasattr(x, "shape") and hasattr(x, "dtype")  # noqa: E731
    flat = jax.tree_util.tree_flatten_with_path(tree, is_leaf=is_leaf)[0]

    def key(part: Any) -> str:
        return str(getattr(part, "name", getattr(part, "key", getattr(part, "idx", part))))

    return [("/".join(key(part) for part in path), leaf) for path, leaf in flat if is_leaf(leaf)]
