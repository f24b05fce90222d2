"""Whether equal neighbouring blocks should be scanned: a training step through 5, 10 and 20 of them, both ways.

The blocks are the zoo's own residual blocks (batch norm in training mode, our convolution gradients), 64 channels on
4 maps of 45x60. Written one after the other, or one of them under `lax.scan` over stacked variables. 3 minutes.
"""

import functools
import statistics
import time
from pathlib import Path
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental.compilation_cache import compilation_cache

from jaxseg.arch import Arch, BackboneArch, BlockArch, HeadArch, block_name
from jaxseg.models import zoo

CLAIM = "Equal blocks under `lax.scan` against the same written out: time of a step, time to compile, temporary memory."
SEEDS = (0,)
CHANNELS, SHAPE = 64, (4, 45, 60)
ROUNDS = 15


def blocks(count: int, seed: int, workdir: Path, data: str) -> dict[str, Any]:
    """One number of blocks; both ways must give the same gradient."""
    equal = (BlockArch("basic", (CHANNELS, CHANNELS)),) * count
    names = [block_name(i) for i in range(1, count + 1)]
    backbone = BackboneArch("equal", (BlockArch("resnet_stem", (CHANNELS,)), *equal))
    arch = Arch(num_classes=11, backbone=backbone, head=HeadArch("fcn", (names[-1],), (16,)))
    module = zoo.module(arch)
    variables = zoo.init(arch, jax.random.PRNGKey(seed))
    parts = [
        {kind: tree[name] for kind, tree in variables.items() if name in tree} for name in names
    ]
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *parts)
    x = jnp.asarray(np.random.default_rng(seed).normal(size=(*SHAPE, CHANNELS)), jnp.float32)

    def one(part: Any, x: jax.Array, index: int) -> jax.Array:
        own = {kind: {block_name(index): tree} for kind, tree in part.items()}
        run = functools.partial(module.apply, method="run", mutable=["batch_stats"])
        (y, _), _ = run(own, x, index, index + 1, True)
        return y

    def written_out(params: Any, x: jax.Array) -> jax.Array:
        for i in range(count):
            x = one(jax.tree.map(lambda leaf, i=i: leaf[i], params), x, i + 1)
        return jnp.mean(x * x)

    def scanned(params: Any, x: jax.Array) -> jax.Array:
        x, _ = jax.lax.scan(lambda x, part: (one(part, x, 1), None), x, params)
        return jnp.mean(x * x)

    def scanned_remat(params: Any, x: jax.Array) -> jax.Array:
        body = jax.checkpoint(lambda part, x: one(part, x, 1))
        x, _ = jax.lax.scan(lambda x, part: (body(part, x), None), x, params)
        return jnp.mean(x * x)

    ways = {"written_out": written_out, "scan": scanned, "scan_remat": scanned_remat}
    compiled, row = {}, {}
    jax.config.update("jax_enable_compilation_cache", False)
    compilation_cache.reset_cache()  # or the flag is not read again
    for name, way in ways.items():
        lowered = jax.jit(jax.grad(way, allow_int=True)).lower(stacked, x)
        begin_s = time.perf_counter()
        compiled[name] = lowered.compile()
        memory = compiled[name].memory_analysis().temp_size_in_bytes
        row[name] = {"compile_s": time.perf_counter() - begin_s, "temp_mb": memory / 1e6}
    results = {name: run(stacked, x) for name, run in compiled.items()}
    for name, result in results.items():
        # float32 through 20 blocks: signs at ReLU flip, so what can be asked for is a small error of a whole tensor.
        chex.assert_trees_all_equal_shapes(result, results["written_out"])
        off = jax.tree.map(
            lambda a, b: float(jnp.linalg.norm(a - b) / jnp.maximum(jnp.linalg.norm(b), 1e-30)),
            result, results["written_out"],
        )  # fmt: skip
        row[name]["gradient_off"] = max(jax.tree.leaves(off))
        assert row[name]["gradient_off"] < 0.02, row
    times: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(ROUNDS):
        for name, run in compiled.items():
            begin_s = time.perf_counter()
            jax.block_until_ready(run(stacked, x))
            times[name].append(1e3 * (time.perf_counter() - begin_s))
    for name, found in times.items():
        row[name]["step_ms"] = statistics.median(found)
    return row


ARMS = {f"{count}_blocks": functools.partial(blocks, count) for count in (5, 10, 20)}
