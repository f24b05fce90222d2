"""`python -m jaxseg.export --workdir=W --output=FILE [--check]`; a model as one StableHLO file."""

import hashlib
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import cv2
import jax
import numpy as np

from jaxseg import build, cli, runtime
from jaxseg.data.images import read_image
from jaxseg.errors import RunFailed, UserError
from jaxseg.inference.artifact import load_model
from jaxseg.inference.exported import PLATFORMS, agreement, exported
from jaxseg.inference.folder import image_files
from jaxseg.inference.predictor import Model, model_folder
from jaxseg.inference.ways import BUDGETED, FINAL, WAYS, Way, answers_early, parts

ALLOWED = 1e-4
"""Share of pixels in which a file may differ: rounding decides where two classes score the same."""

COMMAND = cli.Command(
    "export",
    "Writes a model as one file that needs no jaxseg: uint8 image in, uint8 label map out.",
    (
        cli.Flag("workdir", "a training folder or a deployed folder", required=True),
        cli.Flag("output", "the file; FILE.json beside it tells classes and sizes", required=True),
        cli.Flag("format", "of the file", default="stablehlo", choices=("stablehlo",)),
        cli.Flag("checkpoint", "which weights", default="last", choices=("last", "best")),
        cli.Flag(
            "mode",
            "of early exits: final or budgeted (see eval.exits); a file has one answer",
            default="",
            choices=("", *WAYS),
        ),
        cli.Flag("platforms", "comma-separated", default=",".join(PLATFORMS)),
        cli.Flag("height", "input height in pixels; default: the training crop's"),
        cli.Flag("width", "input width in pixels; default: the training crop's"),
        cli.Flag("check", "compare the written file with the live model", switch=True),
        cli.Flag("input", "images for --check; default: the data set's val split"),
    ),
    config_help="replaces a value of the sections data and eval that the model was trained with",
)


def main(argv: Sequence[str]) -> None:
    """Parses, loads, writes, compares."""
    args = cli.parse(COMMAND, argv)
    arch, variables, card = load_model(model_folder(Path(args["workdir"]), args["checkpoint"]))
    config = build.evaluation_config(card, argv)
    way = build.exit_way(config.eval, args["mode"])
    model = _one_answer(Model(arch, variables, card, build.answer_mode(config.eval)), way)
    height = cli.whole(args, "height", config.data.height_px)
    width = cli.whole(args, "width", config.data.width_px)
    platforms = args["platforms"].split(",")
    if unknown := set(platforms) - set(PLATFORMS):
        raise UserError("--platforms", got=sorted(unknown), expected=f"some of {PLATFORMS}")
    runtime.use_compilation_cache(build.cache_folder(config) / "xla")
    data = bytes(exported(model, height, width, platforms).serialize())
    path = Path(args["output"])
    record = {
        "schema": 1,
        "format": args["format"],
        "sha256": hashlib.sha256(data).hexdigest(),
        "platforms": platforms,
        "input": {"dtype": "uint8", "shape": ["batch", height, width, 3], "order": "RGB"},
        "output": {"dtype": "uint8", "shape": ["batch", height, width]},
        "answers": str(model.mode),
        **({"way": way.name, "chosen": list(way.chosen)} if answers_early(arch) else {}),
        **asdict(card),
        **runtime.provenance(),
    }
    try:
        path.write_bytes(data)
        path.with_name(path.name + ".json").write_text(json.dumps(record, indent=2) + "\n")
    except OSError as error:
        raise UserError(f"cannot write {path}", got=error.strerror) from error
    print(
        f"{path}: {len(data) / 1e6:.1f} MB, {height}x{width}, any batch, for {', '.join(platforms)}"
    )
    if not args["check"]:
        return
    found = agreement(path.read_bytes(), model, _images(args, config, height, width))
    print(
        f"checked on {jax.default_backend()} with {found.images} images, alone and together: "
        f"{found.different} of {found.pixels} pixels differ from the live model"
    )
    if found.different > ALLOWED * found.pixels:
        raise RunFailed(
            f"{path} does not answer as the model does; at most {ALLOWED:.2%} may differ"
        )


def _one_answer(model: Model, way: Way) -> Model:
    """What is written of a network: the parts that its one answer needs.

    Raises:
        UserError: the way has several answers, or decides image by image or by the clock on this host.
    """
    if way.name not in (FINAL, BUDGETED):
        raise UserError(
            "export",
            got=f"mode {way.name}",
            expected=f"{FINAL} or {BUDGETED}: a file has one answer, for any image and any batch",
            do=f"give --mode={FINAL}, or --mode={BUDGETED} and --config.eval.exits.chosen",
        )
    return parts(model, way)[""]


def _images(args: dict, config, height: int, width: int) -> np.ndarray:
    """Real images for the check, resized where they are of another size: uint8 [8 or fewer, H, W, 3]."""
    if args["input"]:
        found = [read_image(path) for path in image_files(Path(args["input"]))[:8]]
    else:
        split = build.open_split(config.data, "val")
        found = [split[i * len(split) // 8]["image"] for i in range(min(8, len(split)))]
    size = (width, height)
    return np.stack([cv2.resize(i, size) if i.shape[:2] != size[::-1] else i for i in found])


if __name__ == "__main__":
    sys.exit(cli.run(main))
