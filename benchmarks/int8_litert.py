"""The same network in int8 by jaxseg and by LiteRT (TensorFlow Lite, XNNPACK), in turn on the same CPU cores.

`pip install --no-deps ai-edge-litert==2.3.0`, and --data=deeplabv3_mnv2_pascal_quant.tflite: TensorFlow's DeepLabV3 on
MobileNetV2, trained for 8 bits on PASCAL VOC. 513x513 px, 21 classes, output stride 16 (the last three depthwise layers
dilated by 2), a head of a 1x1 layer beside image pooling, without dilated branches.

Timed in both: uint8 image on the host to uint8 label map on the host, batch 1, all cores. LiteRT's file ends with an
arg-max of its own, which gives int64; turning that into uint8 is inside its time. Our weights are random: at this size
no time depends on what is in them.

What is not the same, and stands in every row: our head `deeplabv3` has a 3x3 layer behind the projection, here of
`MIDDLE` channels, and the classifier reads those instead of 256. LiteRT resizes scores to 8 bits with corners on
corners, ours takes the arg-max of exact mixtures between half-pixel centres. All other layers are those of the file.
"""

import dataclasses
import importlib.util
import os
from collections import Counter
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.in_turn import HUGE_PAGES, Step, in_turn
from jaxseg.arch import Arch, HeadArch, cells_at, count
from jaxseg.models import zoo

CLAIM = (
    "How long does an int8 inference of jaxseg take beside LiteRT with XNNPACK on the same CPU cores, and beside "
    "jaxseg in float32? DeepLabV3 on MobileNetV2 as in TensorFlow's published file, 513x513 px, 21 classes; the rows "
    "name the convolutions that are not the same, and the multiply-adds of both."
)
SEEDS = (0,)
CLASSES, SIZE = 21, (513, 513)
MEAN = STD = (0.5,) * 3
MIDDLE = 8
"""Channels of the layer that LiteRT's network does not have."""

CALIBRATED_ON = (2, 129, 129, 3)
ROUNDS, STEPS = 6, 5

Layer = tuple[str, int, int, int, int]
"""(kernel, input channels of a group, output channels, dilation, cells of the result)."""


def architecture() -> Arch:
    """The network of the file, as far as our heads go."""
    arch = zoo.named("deeplabv3_mobilenet_v2", CLASSES, output_stride=16)
    (last,) = arch.head.inputs
    return dataclasses.replace(arch, head=HeadArch("deeplabv3", (last,), (256, 256, 256, MIDDLE)))


def our_layers(arch: Arch) -> Counter[Layer]:
    """Every convolution."""
    found: Counter[Layer] = Counter()
    for layer in (layer for block in zoo.blocks(arch) for layer in block.layers):
        height, width, fan_in, out = layer.kernel_shape
        cells = cells_at(layer.out_stride, *SIZE)
        found[f"{height}x{width}", fan_in, out, layer.dilation, cells] += 1
    return found


def their_layers(file: Path) -> Counter[Layer]:
    """Every convolution of a file for LiteRT."""
    from ai_edge_litert import schema_py_generated as schema

    graph = schema.ModelT.InitFromPackedBuf(file.read_bytes(), 0).subgraphs[0]
    found: Counter[Layer] = Counter()
    for op in graph.operators:
        options = op.builtinOptions
        if not isinstance(options, schema.Conv2DOptionsT | schema.DepthwiseConv2DOptionsT):
            continue
        shapes = (graph.tensors[i].shape.tolist() for i in (op.inputs[1], op.outputs[0]))
        (first, height, width, last), (_, rows, columns, out) = shapes
        fan_in = last if isinstance(options, schema.Conv2DOptionsT) else first
        found[f"{height}x{width}", fan_in, out, options.dilationHFactor, rows * columns] += 1
    return found


def macs(layers: Counter[Layer]) -> int:
    """Multiply-adds of one image."""
    total = 0
    for (kernel, fan_in, out, _, cells), number in layers.items():
        height, width = map(int, kernel.split("x"))
        total += height * width * fan_in * out * cells * number
    return total


# --- What is timed ---


def example() -> np.ndarray:
    """An image of noise."""
    return np.random.default_rng(0).integers(0, 256, (1, *SIZE, 3), np.uint8)


def jax_steps(file: str) -> dict[str, Step]:
    """Ours, in int8 and in float32."""
    import jax

    from jaxseg.conversion.calibrated import calibrated
    from jaxseg.inference.predictor import make_predict
    from jaxseg.models.folding import fold

    arch = architecture()
    variables = zoo.init(arch, jax.random.PRNGKey(0))
    seen = np.random.default_rng(1).integers(0, 256, CALIBRATED_ON, np.uint8)
    networks = {
        "int8": calibrated(arch, variables, MEAN, STD, lambda: [seen]),
        "float32": fold(arch, variables),
    }
    image = example()

    def predictor(arch: Arch, variables: dict[str, Any]) -> Step:
        predict, variables = make_predict(arch, MEAN, STD), jax.device_put(variables)
        return lambda: np.asarray(predict(variables, image))

    return {f"infer {name}": predictor(*network) for name, network in networks.items()}


def litert_steps(file: str) -> dict[str, Step]:
    """LiteRT's, which takes XNNPACK where it can."""
    from ai_edge_litert.interpreter import Interpreter

    net = Interpreter(file, num_threads=cores())
    net.allocate_tensors()
    (into,), (out,) = net.get_input_details(), net.get_output_details()
    image = example()

    def infer() -> np.ndarray:
        net.set_tensor(into["index"], image)
        net.invoke()
        return net.get_tensor(out["index"]).astype(np.uint8)

    return {"infer int8": infer}


def cores() -> int:
    """Those that this process may use; XLA takes as many."""
    return len(os.sched_getaffinity(0))


def compare(seed: int, workdir: Path, data: str) -> dict[str, Any]:
    """A row; data: the file."""
    file = Path(data)
    if not file.is_file() or importlib.util.find_spec("ai_edge_litert") is None:
        raise SystemExit(
            f"error: --data: got {data!r}; expected LiteRT's .tflite file, and ai-edge-litert installed; "
            "see benchmarks/int8_litert.py"
        )
    ours, theirs = our_layers(architecture()), their_layers(file)
    counted = count(zoo.blocks(architecture()), *SIZE).macs
    if macs(ours) != counted:
        raise AssertionError(f"layers have {macs(ours)} multiply-adds, the network {counted}")
    makers = {"jax": jax_steps, "litert": litert_steps}
    found = in_turn(makers, (str(file),), rounds=ROUNDS, steps=STEPS)
    median = {what: float(np.median(times)) for what, times in found.items()}
    int8 = median["jax infer int8"]
    return {
        "batch": 1,
        "shape": list(SIZE),
        "ratio_int8_litert": round(int8 / median["litert infer int8"], 3),
        "ratio_int8_float32": round(int8 / median["jax infer float32"], 3),
        "median_ms": {what: round(value, 2) for what, value in median.items()},
        "least_ms": {what: round(min(times), 2) for what, times in found.items()},
        "macs": {"jax": macs(ours), "litert": macs(theirs)},
        "layers_alike": sum((ours & theirs).values()),
        "layers_apart": {"jax": _words(ours - theirs), "litert": _words(theirs - ours)},
        "threads": cores(),
        "steps": len(found["jax infer int8"]),
        "environment": HUGE_PAGES,
        "litert": version("ai-edge-litert"),
    }


def _words(layers: Counter[Layer]) -> list[str]:
    return [f"{kernel}, {fan_in} to {out}" for kernel, fan_in, out, _, _ in layers.elements()]


ARMS = {"deeplabv3_mobilenet_v2": compare}
