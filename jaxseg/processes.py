"""Several processes of one run: joining them, sharing what one of them knows, and leaving.

Only process 0 reads and writes the run's folder; the others are told. So a shared file system is needed for the data
alone, and what one process finds wrong, all find wrong.
"""

import json
import os
import re
import sys
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from jaxseg.errors import Interrupted, RunFailed, UserError

AUTO = "auto"
BY_HAND = re.compile(r"(?P<rank>\d+)/(?P<count>\d+)@(?P<address>[^@/\s]+:\d+)")
LOSS = re.compile(
    r"Gloo|NCCL|DEADLINE_EXCEEDED|UNAVAILABLE|[Cc]oordination ?[Ss]ervice|[Hh]eartbeat"
)
"""In a message: what the runtimes say when a process that they wait for does not answer."""
HEARTBEAT_S = 100
"""After so long without a sign of life a process is taken for dead; JAX's own default."""


def join(text: str, heartbeat_s: int = HEARTBEAT_S) -> None:
    """Joins the processes of a run; to be called before anything is computed.

    Args:
        text: '' = one process; 'auto' = as SLURM, Open MPI, Cloud TPU or Kubernetes tell; 'RANK/COUNT@HOST:PORT', such
            as '0/2@localhost:9876', where HOST:PORT is any free port of the machine of process 0.
        heartbeat_s: a process that is silent for so long is taken for dead, and the others end.

    Raises:
        UserError: nothing to join was found, or the text cannot be read.
        RunFailed: the others cannot be reached.
    """
    if not text:
        return
    given: dict[str, Any] = {}
    if text != AUTO:
        found = BY_HAND.fullmatch(text)
        if not found or int(found["rank"]) >= int(found["count"]):
            raise UserError(
                "--distributed",
                got=repr(text),
                expected="auto, or RANK/COUNT@HOST:PORT such as 0/2@localhost:9876, ranks from 0",
            )
        given = {
            "coordinator_address": found["address"],
            "num_processes": int(found["count"]),
            "process_id": int(found["rank"]),
            # Or JAX would still look at SLURM for devices, and ask Kubernetes.
            "cluster_detection_method": "deactivate",
        }
    try:
        jax.distributed.initialize(**given, heartbeat_timeout_seconds=heartbeat_s)
    except ValueError as error:
        raise UserError(
            "--distributed=auto found no cluster",
            got=error,
            expected="SLURM, Open MPI, Cloud TPU or Kubernetes",
            do="say RANK/COUNT@HOST:PORT",
        ) from error
    except RuntimeError as error:
        raise RunFailed(f"cannot join the other processes: {str(error).splitlines()[0]}") from error


def leave(status: int, *, together: bool) -> int:
    """Ends this process's part and gives back `status`; one of several does not come back unless all leave together.

    Leaving in an orderly way waits for everybody; a process that ends through a failure of its own must not, or the
    others would wait for it and it for them.
    """
    if jax.distributed.is_initialized() and not together:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
    return status


def is_loss(error: BaseException) -> bool:
    """Whether this is how the loss of another process shows."""
    ours = isinstance(error, UserError | RunFailed | Interrupted)
    return jax.process_count() > 1 and not ours and LOSS.search(str(error)) is not None


def is_first() -> bool:
    """Whether this is process 0, the one that reads and writes the run's folder."""
    return jax.process_index() == 0


def on_first(act: Callable[[], Any]) -> Any:
    """What `act` gives in process 0, as JSON values, in all processes.

    Raises:
        UserError, RunFailed: raised by `act` there; raised here in all.
    """
    if jax.process_count() == 1:
        return act()
    told: dict[str, Any] = {}
    if is_first():
        try:
            told = {"value": act()}
        except (UserError, RunFailed) as error:
            told = {"error": str(error), "mistake": isinstance(error, UserError)}
    data = np.frombuffer(json.dumps(told).encode(), np.uint8)
    length = int(multihost_utils.broadcast_one_to_all(np.int32(data.size)))
    data = data if is_first() else np.zeros(length, np.uint8)
    told = json.loads(np.asarray(multihost_utils.broadcast_one_to_all(data)).tobytes())
    if "error" not in told:
        return told["value"]
    if told["mistake"]:
        error = UserError("")
        error.args = (told["error"],)
        raise error
    raise RunFailed(told["error"])


def share(tree: Any) -> Any:
    """Process 0's arrays in all processes, bit for bit, as numpy.

    Args:
        tree: arrays of the same structure, shapes and dtypes everywhere; their values count in process 0 only.
    """
    if jax.process_count() == 1:
        return tree
    leaves, structure = jax.tree.flatten(tree)
    arrays = [np.asarray(x) for x in leaves]
    # As bytes: floating-point numbers would be summed with zeros, which loses the sign of zero and what is no number.
    data = np.concatenate([np.frombuffer(x.tobytes(), np.uint8) for x in arrays])
    data = np.asarray(multihost_utils.broadcast_one_to_all(data))
    ends = np.cumsum([x.nbytes for x in arrays])[:-1]
    parts = zip(np.split(data, ends), arrays, strict=True)
    shared = [part.copy().view(x.dtype).reshape(x.shape) for part, x in parts]
    return jax.tree.unflatten(structure, shared)


def add_up(array: np.ndarray) -> np.ndarray:
    """The sum over all processes of a numpy array, in its own dtype (JAX alone would make int64 to int32)."""
    if jax.process_count() == 1:
        return array
    array = np.ascontiguousarray(array)
    data = array.reshape(-1).view(np.uint8)
    rows = np.ascontiguousarray(multihost_utils.process_allgather(data))
    return rows.view(array.dtype).reshape(-1, *array.shape).sum(axis=0, dtype=array.dtype)
