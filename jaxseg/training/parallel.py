"""Compiling one pure step for one or many devices: jit over a mesh (the main path), or pmap.

The step is the same. Under jit a batch is one global array cut along B; under pmap it gets a device axis,
which the wrapper adds and the state never sees.
"""

from dataclasses import dataclass
from typing import Any

import jax
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
        """What the step must be built with."""
        return AXIS if self.mode == "pmap" else None

    def _sharding(self, *spec: str | None) -> NamedSharding:
        # Auto axes: under Explicit ones Flax's convolutions refuse to trace.
        mesh = jax.make_mesh(
            (len(self.devices),), (AXIS,), axis_types=(AxisType.Auto,), devices=self.devices
        )
        return NamedSharding(mesh, PartitionSpec(*spec))

    def compile(self, step: Step) -> Step:
        """The compiled step; donates the state."""
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
        return jax.jit(
            step,
            in_shardings=(everywhere, cut),
            out_shardings=(everywhere, everywhere),
            donate_argnums=0,
        )

    def put_batch(self, batch: Batch) -> dict[str, Any]:
        """Starts the copy of a host batch to the devices."""
        if self.mode == "pmap":
            n = len(self.devices)
            return {k: v.reshape(n, v.shape[0] // n, *v.shape[1:]) for k, v in batch.items()}
        cut = self._sharding(AXIS)
        return {k: jax.make_array_from_process_local_data(cut, v) for k, v in batch.items()}

    def put_state(self, state: Any) -> Any:
        """The state on every device."""
        return jax.device_put(state, self._sharding())

    def on_devices(self, template: Any) -> Any:
        """ShapeDtypeStructs told to lie on every device, for restoring."""
        everywhere = self._sharding()
        return jax.tree.map(
            lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=everywhere), template
        )


def to_host(tree: Any) -> Any:
    """Numpy copies; blocks until the device has them."""
    return jax.tree.map(np.asarray, jax.device_get(tree))
