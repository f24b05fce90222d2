"""Tables of speed on a CPU. A missed target is said in its own column."""

from collections.abc import Iterable

from benchmarks import targets
from benchmarks.report.markdown import Record, table

NETWORKS = {
    "effnetlite0": "separable DeepLabV3+ on EfficientNet-Lite0, {1}x{0}",
    "resnet18": "FCN on ResNet-18, output stride 32, {1}x{0}",
}
LAYERS = ("stem", "90x120x64", "90x120x64s2", "45x60x128", "23x30x256", "12x15x512")
CONFIGS = {"quickstart": "quickstart", "camvid_effnetlite0": "CamVid, EfficientNet-Lite0"}


def torch_peer(record: Record) -> str:
    """Network and what it does, in milliseconds by dtype, ratios, targets."""
    rows = []
    for name, words in NETWORKS.items():
        row = _row(record, name)
        ms = row["median_ms"]
        network = words.format(*row["shape"])
        training = f"{ms['jax train']:.0f}", f"{_fastest(ms, 'torch train'):.0f}"
        ratio = row[f"ratio_train_{name}"]
        rows.append(
            _line(network, "training step", [training, ("", "")], ratio, ratio, targets.TRAIN)
        )
        inference = [
            (f"{ms[f'jax infer {dtype}']:.0f}", f"{_fastest(ms, 'torch infer', dtype):.0f}")
            for dtype in ("float32", "bfloat16")
        ]
        ratio, float32 = row[f"ratio_infer_{name}"], row[f"ratio_infer_float32_{name}"]
        rows.append(_line("", "inference", inference, float32, ratio, targets.INFER))
    head = ["network", "ms", "jaxseg float32", "torch float32", "jaxseg bfloat16", "torch bfloat16"]
    return table([*head, "ratio in float32", "ratio of the fastest", "target"], rows)


def _line(
    network: str,
    what: str,
    ms: list[tuple[str, str]],
    float32: float,
    fastest: float,
    target: float,
) -> list[str]:
    flat = [value for pair in ms for value in pair]
    return [network, what, *flat, f"{float32:.2f}", f"{fastest:.2f}", _target(fastest, target)]


def int8_litert(record: Record) -> str:
    """Milliseconds of jaxseg and LiteRT, multiply-adds of both, ratios."""
    rows = []
    for row in record["rows"]:
        ms, macs = row["median_ms"], row["macs"]
        rows.append(
            [
                "DeepLabV3 on MobileNetV2, {1}x{0}".format(*row["shape"]),
                *(f"{ms[x]:.0f}" for x in ("jax infer float32", "jax infer int8")),
                f"{ms['litert infer int8']:.0f}",
                f"{macs['jax'] / 1e9:.3f} / {macs['litert'] / 1e9:.3f}",
                f"{row['ratio_int8_float32']:.2f}",
                f"{row['ratio_int8_litert']:.2f}",
            ]
        )
    head = ["network", "jaxseg float32, ms", "jaxseg int8", "LiteRT int8"]
    head += ["GMACs, jaxseg / LiteRT", "int8 / float32", "jaxseg / LiteRT in int8"]
    return table(head, rows)


def conv_gradient(record: Record) -> str:
    """Layer, milliseconds of its kernel's gradient, ratios of that, of both gradients and of a loop."""
    rows = []
    for name in LAYERS:
        row = _row(record, name)
        _, height, width, channels, out, k, stride = row["layer"]
        ms, of_torch = row["median_ms"], row["dw_to_torch"]
        times = ms["jax dw ours"], ms["jax dw xla"], _fastest(ms, "torch dw")
        ratios = [row["dw_to_xla"], of_torch]
        ratios += [
            row.get(key) for key in ("backward_to_xla", "backward_to_torch", "scan_to_chain")
        ]
        rows.append(
            [
                f"{k}x{k}, {channels} to {out}, {height}x{width}" + f", stride {stride}" * (stride > 1),
                *(f"{x:.0f}" for x in times),
                *("" if x is None else f"{x:.2f}" for x in ratios),
                _target(of_torch, targets.KERNEL_GRADIENT),
            ]
        )  # fmt: skip
    head = [
        "layer, batch 4",
        "kernel's, ms: ours",
        "XLA's",
        "torch's",
        "ours / XLA's",
        "ours / torch's",
    ]
    head += ["both: ours / XLA's", "ours / torch's", "loop / row"]
    return table([*head, "kernel's / torch's, target"], rows)


def input_share(record: Record) -> str:
    """Config, milliseconds with real data and without, their ratio and the share of waiting, with targets."""
    rows = []
    for name, words in CONFIGS.items():
        row = _row(record, name)
        ratio, share = row["ratio_real_to_resident"], row["wait_share"]
        rows.append(
            [
                words,
                f"{row['real_ms']:.1f}",
                f"{row['resident_ms']:.1f}",
                f"{ratio:.3f}",
                _target(ratio, targets.REAL),
                f"{100 * share:.1f} %",
                _target(share, targets.WAIT, f"{100 * targets.WAIT:.0f} %"),
            ]
        )
    head = ["training step", "real data, ms", "a batch that lies ready, ms", "ratio", "target"]
    return table([*head, "waiting for data", "target"], rows)


def _row(record: Record, arm: str) -> Record:
    return next(row for row in record["rows"] if row["arm"] == arm)


def _fastest(ms: dict[str, float], what: str, dtype: str = "") -> float:
    """Of torch's two layouts the quicker one."""
    names: Iterable[str] = (f"{what} {layout} {dtype}".strip() for layout in ("nchw", "nhwc"))
    return min(ms[name] for name in names)


def _target(found: float, most: float, words: str = "") -> str:
    return f"{words or most}, " + ("met" if found <= most else "**missed**")
