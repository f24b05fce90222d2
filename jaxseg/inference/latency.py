"""How long a forward pass takes, and what it costs on paper."""

import time
from typing import Any

import jax
import numpy as np

from jaxseg.arch import Arch, count
from jaxseg.inference.predictor import make_predict
from jaxseg.models import zoo


def measure(
    arch: Arch,
    variables: dict[str, Any],
    mean: tuple[float, ...],
    std: tuple[float, ...],
    *,
    batch: int,
    height_px: int,
    width_px: int,
    rounds: int = 50,
    warm_up: int = 5,
) -> dict[str, Any]:
    """Times uint8 image on the host -> uint8 label map on the host: copies, normalisation, network,
    upsampling and arg-max inside the timer; decoding and compilation outside.

    Args:
        arch, variables, mean, std: the model.
        batch, height_px, width_px: of the input.
        rounds: timed calls, each waited for. warm_up: calls before them.

    Returns:
        macs (1 MAC = 1, convolutions, whole batch 1 image), params, median_ms, p95_ms, images_per_s, compile_s,
        peak_bytes with how it was obtained.
    """
    shape = (batch, height_px, width_px, 3)
    image = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    variables = jax.device_put(variables)
    start_s = time.perf_counter()
    compiled = make_predict(arch, mean, std).lower(variables, image).compile()
    compile_s = time.perf_counter() - start_s

    def call() -> float:
        begin_s = time.perf_counter()
        np.asarray(compiled(variables, image))
        return time.perf_counter() - begin_s

    for _ in range(warm_up):
        call()
    times_ms = 1e3 * np.array([call() for _ in range(rounds)])
    counts = count(zoo.blocks(arch), height_px, width_px)
    return {
        "dtype": arch.numbers.compute,
        "batch": batch,
        "shape": [height_px, width_px],
        "macs": counts.macs,
        "macs_convention": "1 multiply-add = 1, convolutions of one image",
        "params": counts.params,
        "median_ms": float(np.median(times_ms)),
        "p95_ms": float(np.percentile(times_ms, 95)),
        "images_per_s": float(1e3 * batch / np.median(times_ms)),
        "rounds": rounds,
        "timer": "host uint8 image to host uint8 label map; compilation and decoding excluded",
        "compile_s": compile_s,
        **_peak_bytes(compiled),
    }


def _peak_bytes(compiled: Any) -> dict[str, Any]:
    """From the device's allocator where it tells, else from the compiler's own plan (CPU)."""
    stats = jax.devices()[0].memory_stats()
    if stats and "peak_bytes_in_use" in stats:
        return {
            "peak_bytes": int(stats["peak_bytes_in_use"]),
            "peak_bytes_from": "device allocator",
        }
    plan = compiled.memory_analysis()
    total = plan.temp_size_in_bytes + plan.argument_size_in_bytes + plan.output_size_in_bytes
    return {"peak_bytes": int(total), "peak_bytes_from": "XLA memory analysis (plan, not measured)"}
