"""The train state: everything that a checkpoint must hold besides the journal."""

import hashlib
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from jaxseg.arch import Arch
from jaxseg.inference.artifact import flatten, unflatten
from jaxseg.models import zoo
from jaxseg.training import partition
from jaxseg.training.optim import direction
from jaxseg.training.phases import Phase
from jaxseg.types import Array


@struct.dataclass
class TrainState:
    """A pytree of arrays; never carries a device axis.

    step:        int32 scalar, updates done in the whole run.
    phase_step:  int32 scalar, updates done in the current stretch of phases (what schedules look at).
    params:      float32 tree, one top-level entry per block, head or exit.
    batch_stats: float32 tree of running means and variances, same top-level names.
    opt_state:   optax state over the trained parameters of the current phase only.
    ema:         None, or {'params', 'batch_stats'} averaged over updates.
    key:         uint32 [2], base random key; step t uses fold_in(key, t).
    extra:       name -> tree, what methods keep (search variables, masks, ranges); empty without methods.
    """

    step: Array
    phase_step: Array
    params: dict[str, Any]
    batch_stats: dict[str, Any]
    opt_state: Any
    ema: dict[str, Any] | None
    key: Array
    extra: dict[str, Any]


def fresh_optimiser(phase: Phase, params: dict[str, Any]) -> Any:
    """The optimiser state with which `phase` starts on these parameters."""
    trained, _ = partition.split(params, phase.trainable)
    return direction(phase.optim).init(trained)


def create(
    arch: Arch,
    phase: Phase,
    seed: int,
    *,
    ema: bool,
    values: Mapping[str, np.ndarray] | None = None,
) -> TrainState:
    """A new run's state, as if `phase` had just been entered.

    Args:
        arch: architecture.
        phase: the first one.
        seed: of the random weights and of everything random after them.
        ema: whether an average of the weights is kept.
        values: flat path ('params/block_00/conv1/kernel') -> array that takes the place of a random one.
    """
    init_key, base_key = jax.random.split(jax.random.PRNGKey(seed))
    variables = zoo.init(arch, init_key)
    if values:
        # Copies: the state is donated, and the values are not ours.
        variables = unflatten(flatten(variables) | {k: jnp.array(v) for k, v in values.items()})
    params, stats = dict(variables["params"]), dict(variables["batch_stats"])
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        phase_step=jnp.zeros((), jnp.int32),
        params=params,
        batch_stats=stats,
        opt_state=fresh_optimiser(phase, params),
        # Copies: the state is donated, and XLA refuses one buffer under two names.
        ema=jax.tree.map(jnp.copy, {"params": params, "batch_stats": stats}) if ema else None,
        key=base_key,
        extra={},
    )


def enter(phase: Phase, arch: Arch, state: TrainState) -> tuple[Arch, TrainState]:
    """What happens at the start of a phase: its own `on_enter`, then a fresh optimiser if it asks for one.

    Pure, so that a resumed run that has to enter a phase again arrives at the same bits.
    """
    if phase.on_enter is not None:
        arch, state = phase.on_enter(arch, state)
    if not phase.goes_on:
        state = state.replace(phase_step=jnp.zeros((), jnp.int32))
    if phase.fresh_optimiser:
        state = state.replace(opt_state=fresh_optimiser(phase, state.params))
    return arch, state


def inference_variables(state: TrainState) -> dict[str, Any]:
    """{'params', 'batch_stats'} to evaluate and to deploy: the average where one is kept."""
    if state.ema is not None:
        return state.ema
    return {"params": state.params, "batch_stats": state.batch_stats}


def digest(state: TrainState) -> str:
    """sha256 over the sorted (path, dtype, shape, bytes) of every leaf: equal iff the runs are equal."""
    leaves = jax.tree_util.tree_flatten_with_path(state)[0]
    total = hashlib.sha256()
    for path, leaf in sorted((jax.tree_util.keystr(p), x) for p, x in leaves):
        array = np.asarray(jax.device_get(leaf))
        total.update(f"{path} {array.dtype} {array.shape}".encode())
        total.update(np.ascontiguousarray(array).tobytes())
    return total.hexdigest()
