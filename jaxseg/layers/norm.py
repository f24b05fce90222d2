"""Batch norm with float32 statistics."""

import flax.linen as nn
import jax.numpy as jnp

from jaxseg.arch import NumbersArch


def batch_norm(numbers: NumbersArch, axis_name: str | None, name: str) -> nn.BatchNorm:
    """Flax's batch norm: statistics and affine map in float32, result in the compute dtype.

    The running variance is Flax's biased one (torch keeps the unbiased one, larger by n / (n - 1)).

    Args:
        numbers: constants and the compute dtype.
        axis_name: pmap axis to average statistics over, or None. Under jit on a sharded batch they
            are global without it.
        name: name of the submodule.
    """
    return nn.BatchNorm(
        momentum=numbers.norm_momentum,
        epsilon=numbers.norm_eps,
        dtype=jnp.dtype(numbers.compute),
        param_dtype=jnp.float32,
        axis_name=axis_name,
        name=name,
    )
