"""Compiling one pure step for one or many devices: jit over a mesh (the main path), or pmap.

The step is the same: every device runs it on its own images, and what has to be global is summed by name
(`axis_name`). Under jit a batch is one global array cut along B (`shard_map`); under pmap it gets a device axis, which
the wrapper adds and the state never sees. XLA's own cutting of a global step puts sums into the loops of our
convolution gradients: one per turn instead of one per kernel, and with several CPU processes in an order that differs.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from jaxseg.errors import UserError, unknown_name
from jaxseg.training.phases import Step
from jaxseg.types import Batch

AXIS = "data"
MODES = ("jit", "pmap")


@dataclass(frozen=True)
class Parallel:
    """How steps are compiled and batches are put on the local devices."""

    mode: str
    devices: tuple[Any, ...]

    @classmethod
    def over(cls, mode: str, batch_size: int, devices: Any = None) -> "Parallel":
        """All devices (or those given).

        Raises:
            UserError: unknown mode, or a batch that does not divide over the devices.
        """
        if mode not in MODES:
            raise unknown_name("parallel.mode", mode, MODES)
        devices = tuple(jax.devices() if devices is None else devices)
        if batch_size % len(devices):
            raise UserError(
                "data.batch_size",
                got=batch_size,
                expected=f"a multiple of the {len(devices)} devices",
                do="change it, or hide devices (CUDA_VISIBLE_DEVICES)",
            )
        return cls(mode, devices)

    @property
    def axis_name(self) -> str | None:
        """What the step is built with; None for one device."""
        return AXIS if self.mode == "pmap" or len(self.devices) > 1 else None

    def _sharding(self, *spec: str | None) -> NamedSharding:
        return _sharding(self.devices, *spec)

    @property
    def local_devices(self) -> tuple[Any, ...]:
        """Those of this process."""
        return tuple(d for d in self.devices if d.process_index == jax.process_index())

    def compile(self, make: Callable[..., Step]) -> Step:
        """The compiled step; donates the state.

        Args:
            make: called with the keyword `axis_name`, gives the step.
        """
        step = _listening(make(axis_name=self.axis_name), self.axis_name)
        if self.mode == "pmap":
            mapped = jax.pmap(
                step,
                axis_name=AXIS,
                in_axes=(None, 0),
                out_axes=None,
                donate_argnums=0,
                devices=self.devices,
            )
            return mapped
        everywhere, cut = self._sharding(), self._sharding(AXIS)
        if self.axis_name:
            own = PartitionSpec(AXIS)
            step = jax.shard_map(
                step,
                mesh=cut.mesh,
                in_specs=(PartitionSpec(), own),
                out_specs=PartitionSpec(),
                check_vma=False,  # gradients of sums are as under pmap
            )
        return jax.jit(
            step,
            in_shardings=(everywhere, cut),
            out_shardings=(everywhere, everywhere),
            donate_argnums=0,
        )

    def put_batch(self, batch: Batch, told: int | None = None) -> dict[str, Any]:
        """Starts the copy of this process's part of a batch to its devices.

        Args:
            batch: on the host.
            told: a number of this process, if any; the step's sums then hold the largest of all processes as `told`,
                so that all know it at the same step.
        """
        rows = len(batch["weight"])
        if told is not None:
            batch = {**batch, "told": np.full(rows, told, np.int32)}
        if self.mode == "pmap":
            n = len(self.local_devices)
            return {k: v.reshape(n, rows // n, *v.shape[1:]) for k, v in batch.items()}
        cut = self._sharding(AXIS)
        return {k: jax.make_array_from_process_local_data(cut, v) for k, v in batch.items()}

    def put_state(self, state: Any) -> Any:
        """The state on every device."""
        if jax.process_count() > 1:
            state = to_host(state)
        return jax.device_put(state, self._sharding())

    def put_local(self, tree: Any) -> Any:
        """Values that all processes have, on the devices of this process, for what it computes alone."""
        devices = self.local_devices
        if len(devices) < len(self.devices):
            tree = to_host(tree)
        return jax.device_put(tree, _sharding(devices))

    def put_local_batch(self, batch: Batch) -> dict[str, Any]:
        """A batch cut over the devices of this process, or whole on each where it does not divide."""
        devices = self.local_devices
        cut = () if len(batch["weight"]) % len(devices) else (AXIS,)
        return jax.device_put(batch, _sharding(devices, *cut))


def _sharding(devices: tuple[Any, ...], *spec: str | None) -> NamedSharding:
    # Auto axes: under Explicit ones Flax's convolutions refuse to trace.
    mesh = jax.make_mesh((len(devices),), (AXIS,), axis_types=(AxisType.Auto,), devices=devices)
    return NamedSharding(mesh, PartitionSpec(*spec))


def _listening(step: Step, axis_name: str | None) -> Step:
    """The step, and in its sums the largest `told` of the batch, where it has one."""

    def listening(state: Any, batch: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        if "told" not in batch:
            return step(state, batch)
        batch = dict(batch)
        told = jnp.max(batch.pop("told"))
        state, sums = step(state, batch)
        return state, {**sums, "told": jax.lax.pmax(told, axis_name) if axis_name else told}

    return listening


def to_host(tree: Any) -> Any:
    """Numpy copies; blocks until the device has them."""
    return jax.tree.map(np.asarray, jax.device_get(tree))
