"""Int8 inference beside the fastest of our float32, our bfloat16 and torch, in turn on the same machine.

`make parity` installs torch. uint8 image on the host -> uint8 label map on the host, batch 1, random weights (times do
not depend on them), int8 networks calibrated on a random image. Torch folds no batch norm; ours are folded.
"""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import targets, torch_peer
from benchmarks.in_turn import HUGE_PAGES, Step, in_turn

CLAIM = (
    "How much quicker is an int8 network than the fastest of float32 and bfloat16 in jaxseg and in torch, batch 1? "
    "Floors and aims: " + ", ".join(f"{k} {a} and {b}" for k, (a, b) in targets.INT8.items()) + "."
)
SEEDS = (0,)
NETWORKS = {
    "resnet18": ("deeplabv3plus_resnet18", {}, ((360, 480), (512, 1024))),
    # Torch's decoder upsamples by a whole factor, so the height must be a multiple of 16.
    "effnetlite0": (
        "deeplabv3plus_separable_efficientnet_lite0",
        {},
        ((368, 480), (512, 1024)),
    ),
    "itnet": ("itnet", {}, ((360, 480), (512, 1024))),
}
"""Network, options, heights and widths in pixels."""


def jax_steps(network: str, options: dict[str, Any], size: tuple[int, int]) -> dict[str, Step]:
    """Ours: float32, bfloat16 and int8."""
    import jax

    from jaxseg.conversion.calibrated import calibrated
    from jaxseg.inference.predictor import make_predict
    from jaxseg.models import zoo
    from jaxseg.models.folding import fold

    mean, std = torch_peer.MEAN, torch_peer.STD
    arch = zoo.named(network, torch_peer.CLASSES, dropout=0.0, **options)
    image, _ = torch_peer.example(1, size)
    variables = zoo.init(arch, jax.random.PRNGKey(0))
    made = {}
    for dtype in torch_peer.DTYPES:
        numbers = dataclasses.replace(arch.numbers, compute=dtype)
        made[dtype] = fold(dataclasses.replace(arch, numbers=numbers), variables)
    made["int8"] = calibrated(arch, variables, mean, std, lambda: [image], method="minmax")

    def predictor(arch: Any, variables: Any) -> Step:
        predict, variables = make_predict(arch, mean, std), jax.device_put(variables)
        return lambda: np.asarray(predict(variables, image))

    return {f"infer {name}": predictor(*of) for name, of in made.items()}


def torch_steps(network: str, options: dict[str, Any], size: tuple[int, int]) -> dict[str, Step]:
    """Torch's, in every layout and dtype; none where it has no such network."""
    if network == "itnet":
        return {}
    steps = torch_peer.torch_steps(network, options, size)
    return {name: step for name, step in steps.items() if name.startswith("infer")}


def _compared(name: str, size: tuple[int, int]) -> Callable[[int, Path, str], dict[str, Any]]:
    def arm(seed: int, workdir: Path, data: str) -> dict[str, Any]:
        from jaxseg.arch import count
        from jaxseg.models import zoo

        network, options, _ = NETWORKS[name]
        makers = {"jax": jax_steps, "torch": torch_steps}
        found = in_turn(makers, (network, options, size))
        median = {what: float(np.median(times)) for what, times in found.items()}
        others = {k: v for k, v in median.items() if not k.endswith("int8")}
        fastest = min(others, key=others.get)
        macs = count(zoo.blocks(zoo.named(network, torch_peer.CLASSES, **options)), *size).macs
        return {
            "shape": list(size),
            "macs": macs,
            "fastest": fastest,
            "quicker": round(others[fastest] / median["jax infer int8"], 3),
            "quicker_than_own": round(
                min(v for k, v in others.items() if k.startswith("jax")) / median["jax infer int8"],
                3,
            ),
            "median_ms": {what: round(value, 2) for what, value in median.items()},
            "least_ms": {what: round(min(times), 2) for what, times in found.items()},
            "environment": HUGE_PAGES,
            "steps": len(found["jax infer int8"]),
        }

    return arm


ARMS = {
    f"{name}_{size[1]}x{size[0]}": _compared(name, size)
    for name, (_, _, sizes) in NETWORKS.items()
    for size in sizes
}
