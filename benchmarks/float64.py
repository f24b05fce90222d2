"""All of jaxseg in float64, which no user can ask for: to tell rounding from a mistake.

In float32 gradients and trainings of two frameworks cannot be compared closely. Rounding decides on which side of a
ReLU a few cells in a million lie; that changes the gradients of a ResNet-50 by some per cent of their scale, and
trainings wander apart in a few dozen steps, in torch alone as between torch and here.
"""

import contextlib
import copy
import dataclasses
import sys
from collections.abc import Iterator
from typing import Any
from unittest import mock

import jax
import jax.numpy as jnp

from jaxseg.arch import Arch


class _Wide:
    """jax.numpy, but float32 is float64."""

    float32 = jnp.float64

    def __getattr__(self, name: str):
        return getattr(jnp, name)


@contextlib.contextmanager
def everywhere() -> Iterator[None]:
    """Within it JAX knows float64, and every float32 that our modules ask for is one.

    Give the network `exact(arch)` and float64 variables; initialise them before.
    """
    ours = [
        module
        for name, module in sys.modules.items()
        if name.startswith("jaxseg.") and getattr(module, "jnp", None) is jnp
    ]
    with contextlib.ExitStack() as stack:
        stack.enter_context(jax.enable_x64(True))
        for module in ours:
            stack.enter_context(mock.patch.object(module, "jnp", _Wide()))
        yield


def exact(arch: Arch) -> Arch:
    """The same network computing in float64."""
    numbers = copy.copy(arch.numbers)
    object.__setattr__(numbers, "compute", "float64")
    return dataclasses.replace(arch, numbers=numbers)


def widened(tree: Any) -> Any:
    """A tree of arrays with every float32 as float64; call it within `everywhere`."""
    return jax.tree.map(lambda x: x.astype(jnp.float64) if x.dtype == jnp.float32 else x, tree)
