"""Where the time of a forward pass goes, layer by layer, from a trace of the compiled network itself."""

import collections
import re
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxseg.arch import BlockSpec
from jaxseg.errors import UserError
from jaxseg.inference.latency import Ready
from jaxseg.inference.roofline import Peaks, layer_cost

INSTRUCTION = re.compile(r'^\s*(?:ROOT )?%?([\w.\-]+) = .*?op_name="([^"]*)"', re.MULTILINE)
"""In the text of a compiled program: an instruction's name, and where in the network it comes from."""

HOLDERS = re.compile(r"^(while|call|conditional)(\.\d+)?$")
"""Instructions whose time is that of others, which are counted themselves."""

ELSEWHERE = "-"
"""Stands for a block or layer where an instruction belongs to none: normalisation, residual sums, arg-max."""


class LayerTime(NamedTuple):
    """One convolution with what is fused to it; or, where `layer` is '-', what else its block does.

    macs, num_bytes: of the batch; bytes are the least possible: input, kernel and output once each; 0 where `layer`
                     is '-'.
    ms:              time of its instructions in one call, median over calls. Instructions may run side by side,
                     so a column may add up to more than the call takes.
    """

    block: str
    layer: str
    macs: int
    num_bytes: int
    ms: float


def layer_times(ready: Ready, dtype: str, rounds: int = 10) -> list[LayerTime]:
    """Runs a compiled network under the profiler.

    Args:
        ready: what `latency.prepare` made.
        dtype: of its activations.
        rounds: traced calls.

    Returns:
        Rows in the order of the network; 0 ms for a layer that was fused into another.

    Raises:
        UserError: this backend's profiler names no instructions.
    """
    batch, height_px, width_px = ready.arguments[1].shape[:3]
    itemsize = jnp.dtype(dtype).itemsize
    traced = _traced(ready.compiled, ready.arguments, rounds)
    times = _by_place(traced, ready.compiled.as_text(), ready.blocks)
    rows = []
    for block in (b for b in ready.blocks if b.role in ("backbone", "head")):
        for layer in block.layers:
            macs, num_bytes = layer_cost(layer, batch, height_px, width_px, itemsize)
            ms = times.pop((block.name, layer.name), 0.0)
            rows.append(LayerTime(block.name, layer.name, macs, num_bytes, ms))
        if ms := times.pop((block.name, ELSEWHERE), 0.0):
            rows.append(LayerTime(block.name, ELSEWHERE, 0, 0, ms))
    rows += [LayerTime(*place, 0, 0, ms) for place, ms in times.items()]
    return rows


def roofline_table(rows: Sequence[LayerTime], best: Peaks) -> str:
    """One line per row: time and its share, MACs, bytes, the roofline's floor and which side of it binds."""
    total_ms = sum(row.ms for row in rows)
    lines = [
        f"roofline of this device: {best.macs_per_s / 1e9:.0f} GMAC/s, {best.bytes_per_s / 1e9:.1f} GB/s",
        f"{'block':<10} {'layer':<12} {'ms':>8} {'share':>6} {'MMACs':>9} {'MB':>8} {'floor ms':>9}  bound by",
    ]
    for row in rows:
        line = f"{row.block:<10} {row.layer:<12} {row.ms:>8.3f} {row.ms / total_ms:>6.1%}"
        if row.layer != ELSEWHERE:
            binds = (
                "arithmetic"
                if row.macs / best.macs_per_s > row.num_bytes / best.bytes_per_s
                else "bytes"
            )
            line += f" {row.macs / 1e6:>9.2f} {row.num_bytes / 1e6:>8.2f}"
            line += f" {best.floor_ms(row.macs, row.num_bytes):>9.3f}  {binds}"
        lines.append(line)
    floor_ms = sum(best.floor_ms(row.macs, row.num_bytes) for row in rows)
    return "\n".join([*lines, f"sum {total_ms:.2f} ms of instructions, floor {floor_ms:.2f} ms"])


def _traced(compiled: Any, arguments: tuple[Any, ...], rounds: int) -> dict[str, float]:
    """Instruction -> milliseconds per call."""
    np.asarray(compiled(*arguments))
    with tempfile.TemporaryDirectory() as folder:
        with jax.profiler.trace(folder):
            for _ in range(rounds):
                np.asarray(compiled(*arguments))
        (path,) = Path(folder).rglob("*.xplane.pb")
        trace = jax.profiler.ProfileData.from_file(str(path))
    found: dict[str, list[float]] = collections.defaultdict(list)
    for plane in trace.planes:
        for line in plane.lines:
            for event in line.events:
                name = dict(event.stats).get("hlo_op")
                if name and not HOLDERS.match(str(name)):
                    found[str(name)].append(event.duration_ns / 1e6)
    if not found:
        raise UserError(
            "--layers", got=jax.default_backend(), expected="a profiler that names instructions"
        )
    # An instruction in a loop has several events per call.
    return {name: float(np.median(ms)) * len(ms) / rounds for name, ms in found.items()}


def _by_place(
    times: Mapping[str, float], program: str, blocks: tuple[BlockSpec, ...]
) -> dict[tuple[str, str], float]:
    """(block, layer) -> milliseconds, either of them '-' where there is none."""
    paths = dict(INSTRUCTION.findall(program))
    layers = {block.name: {layer.name for layer in block.layers} for block in blocks}
    found: dict[tuple[str, str], float] = collections.defaultdict(float)
    for name, ms in times.items():
        parts = paths.get(name, "").split("/")
        block = next((part for part in parts if part in layers), ELSEWHERE)
        inside = parts[parts.index(block) :] if block in parts else []
        layer = next((part for part in inside if part in layers[block]), ELSEWHERE)
        found[block, layer] += ms
    return found
