"""How long a forward pass takes, and what it costs on paper."""

import time
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxseg.arch import Arch, BlockSpec, count
from jaxseg.inference.predictor import make_predict
from jaxseg.models import zoo
from jaxseg.models.folding import fold


class Ready(NamedTuple):
    """A compiled answer and what it is asked: `np.asarray(compiled(*arguments))` is the label map.

    blocks: specs of what was compiled, batch norm folded.
    """

    compiled: Any
    arguments: tuple[Any, np.ndarray]
    blocks: tuple[BlockSpec, ...]
    compile_s: float


def prepare(
    arch: Arch,
    variables: dict[str, Any],
    mean: tuple[float, ...],
    std: tuple[float, ...],
    shape: tuple[int, int, int],
) -> Ready:
    """Folds, compiles and draws random images of `shape` (batch, height, width)."""
    arch, variables = fold(arch, variables)
    image = np.random.default_rng(0).integers(0, 256, (*shape, 3), np.uint8)
    variables = jax.device_put(variables)
    begin_s = time.perf_counter()
    compiled = make_predict(arch, mean, std).lower(variables, image).compile()
    compile_s = time.perf_counter() - begin_s
    return Ready(compiled, (variables, image), zoo.blocks(arch), compile_s)


def measure(ready: Ready, rounds: int = 50, warm_up: int = 5) -> dict[str, Any]:
    """Times uint8 image on the host -> uint8 label map on the host: copies, normalisation, network,
    upsampling and arg-max inside the timer; decoding and compilation outside.

    Args:
        ready: what `prepare` made.
        rounds: timed calls, each waited for. warm_up: calls before them.

    Returns:
        macs (1 MAC = 1, convolutions, 1 image), params, median_ms, p95_ms, images_per_s, compile_s, peak_bytes with
        how it was obtained.
    """
    compiled, arguments, blocks, compile_s = ready

    def call() -> float:
        begin_s = time.perf_counter()
        np.asarray(compiled(*arguments))
        return time.perf_counter() - begin_s

    for _ in range(warm_up):
        call()
    times_ms = 1e3 * np.array([call() for _ in range(rounds)])
    batch, height_px, width_px = arguments[1].shape[:3]
    counts = count(blocks, height_px, width_px)
    return {
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
