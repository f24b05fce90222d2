"""`python -m jaxseg.bench --workdir=W | --config=X`; times the forward pass and writes bench.json."""

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from jaxseg import build, cli, runtime
from jaxseg.arch import Arch
from jaxseg.conversion.steps import deployed_blocks
from jaxseg.data import datasets
from jaxseg.errors import UserError
from jaxseg.inference import edge_times
from jaxseg.inference.artifact import Card, load_model
from jaxseg.inference.latency import measure, prepare
from jaxseg.inference.layer_quality import Network, as_float, check, qualities, sample
from jaxseg.inference.layer_table import joined, quality_table
from jaxseg.inference.layer_times import layer_times, roofline_table
from jaxseg.inference.predictor import model_folder
from jaxseg.inference.roofline import peaks
from jaxseg.models import zoo
from jaxseg.models.gas import is_supernet
from jaxseg.outside import write_file

SPLITS = ("train", "calib", "val", "test")
COMMAND = cli.Command(
    "bench",
    "Times inference on this device: uint8 image in, uint8 label map out.",
    (
        cli.Flag("workdir", "a training folder or a deployed folder"),
        cli.Flag("config", "a config file instead: the untrained network that it describes"),
        cli.Flag("batch", "images per call", default="1"),
        cli.Flag("height", "input height in pixels; default: the training crop's"),
        cli.Flag("width", "input width in pixels; default: the training crop's"),
        cli.Flag("rounds", "timed calls", default="50"),
        cli.Flag("layers", "also the time of each layer beside the roofline", switch=True),
        cli.Flag(
            "beside",
            "with --layers: the trained float folder that an int8 --workdir was made from; shows what is left of it",
        ),
        cli.Flag("split", "whose images --beside looks at", default="val", choices=SPLITS),
        cli.Flag(
            "table",
            "with --config of a network to be searched: where to write how long each of its operations takes here",
        ),
        cli.Flag("output", "where to write; default: W/bench.json, or ./bench.json with --config"),
    ),
    config_help="replaces a value of the config",
)


def main(argv: Sequence[str]) -> None:
    """Parses, builds or loads, measures, writes, prints."""
    args = cli.parse(COMMAND, argv)
    if bool(args["workdir"]) == bool(args["config"]):
        raise UserError("bench", expected="either --workdir or --config")
    if args["table"] and not args["config"]:
        raise UserError("--table", expected="--config of a network to be searched")
    if args["beside"] and not (args["workdir"] and args["layers"]):
        raise UserError("--beside", expected="--workdir of an int8 network, and --layers")
    batch, rounds = cli.whole(args, "batch"), cli.whole(args, "rounds")
    if args["workdir"]:
        arch, variables, card = load_model(model_folder(Path(args["workdir"])))
        config = build.evaluation_config(card, argv)
        mean, std, folder = card.mean, card.std, Path(args["workdir"])
    else:
        config = cli.override(cli.load_config(args["config"]), argv)
        arch = build.architecture(config, datasets.describe(config.data.name, config.data.dir))
        if args["table"]:
            return _table(args, arch, config)
        variables = zoo.init(arch, jax.random.PRNGKey(config.seed))
        mean, std, folder = tuple(config.data.mean), tuple(config.data.std), Path(".")
    beside = _beside(args, arch, card, config) if args["beside"] else None
    runtime.use_compilation_cache(build.cache_folder(config) / "xla")
    shape = (
        batch,
        cli.whole(args, "height", config.data.height_px),
        cli.whole(args, "width", config.data.width_px),
    )
    ready = prepare(arch, variables, mean, std, shape)
    dtype = arch.numbers.compute
    record = {"schema": 1, "dtype": dtype, **measure(ready, rounds)}
    record |= {"jax": jax.__version__, **runtime.provenance()}
    if args["layers"]:
        best = peaks(dtype)
        rows = layer_times(ready, dtype)
        record |= {"peaks": best._asdict(), "layers": [row._asdict() for row in rows]}
        print(roofline_table(rows, best))
        if beside:
            floating, images = beside
            float_times = layer_times(prepare(*floating, mean, std, shape), "float32")
            found = qualities((arch, variables), floating, mean, std, images)
            record["layers"] = joined(deployed_blocks(arch), rows, float_times, found)
            record["quality_images"] = {"split": args["split"], "count": len(images)}
            print(quality_table(record["layers"]))
    path = Path(args["output"]) if args["output"] else folder / "bench.json"
    try:
        write_file(path, (json.dumps(record, indent=2) + "\n").encode())
    except OSError as error:
        raise UserError(f"cannot write {path}", got=error.strerror) from error
    print(
        f"{record['device']}, {record['dtype']}, batch {record['batch']}, "
        f"{record['shape'][0]}x{record['shape'][1]}: median {record['median_ms']:.2f} ms, "
        f"p95 {record['p95_ms']:.2f} ms, {record['images_per_s']:.1f} images/s, "
        f"{record['macs'] / 1e9:.3f} GMACs, {record['params'] / 1e6:.3f} M parameters\n"
        f"timer: {record['timer']}\nwritten to {path}"
    )


def _table(args: dict[str, Any], arch: Arch, config: ConfigDict) -> None:
    """Measures and writes a table for `gas.latency`."""
    if not is_supernet(arch):
        raise UserError("--table", got=config.model.name, expected="a config with gas.search.steps")
    size_px = (
        cli.whole(args, "height", config.data.height_px),
        cli.whole(args, "width", config.data.width_px),
    )
    record = edge_times.measure(arch, size_px, rounds=cli.whole(args, "rounds"))
    record |= runtime.provenance()
    path = Path(args["table"])
    try:
        write_file(path, (json.dumps(record, indent=2) + "\n").encode())
    except OSError as error:
        raise UserError(f"cannot write {path}", got=error.strerror) from error
    for key, ms in sorted(record["entries"].items(), key=lambda pair: -pair[1]):
        print(f"  {1e3 * ms:9.1f} us  {key}")
    print(f"written to {path}; give it as --config.gas.latency={path}")


def _beside(
    args: dict[str, Any], arch: Arch, card: Card, config: ConfigDict
) -> tuple[Network, list[np.ndarray]]:
    """The float network of --beside, and images for both."""
    floating, variables, _ = load_model(model_folder(Path(args["beside"])))
    check(arch, floating)
    split, _ = build.evaluation_split(config, card, args["split"])
    return as_float(floating, variables), sample(split)


if __name__ == "__main__":
    sys.exit(cli.run(main))
