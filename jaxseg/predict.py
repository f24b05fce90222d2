"""`python -m jaxseg.predict --workdir=W --input=FILE_OR_DIR --output=DIR`; label maps, colours, overlays."""

import sys
from collections.abc import Sequence
from pathlib import Path

from jaxseg import build, cli, runtime
from jaxseg.errors import UserError
from jaxseg.inference.artifact import load_model
from jaxseg.inference.folder import predict_folder
from jaxseg.inference.predictor import Model, model_folder
from jaxseg.inference.ways import DEADLINE, INPUT, WAYS, answers_early, parts, routed

COMMAND = cli.Command(
    "predict",
    "Segments images at their own resolution.",
    (
        cli.Flag("workdir", "a training folder or a deployed folder", required=True),
        cli.Flag(
            "input", "a PNG or JPEG file, or a folder of them (searched deeply)", required=True
        ),
        cli.Flag("output", "a folder: labels/, colors/, overlays/ are made inside", required=True),
        cli.Flag("checkpoint", "which weights", default="last", choices=("last", "best")),
        cli.Flag(
            "mode",
            "final; of early exits budgeted, anytime (a folder per exit), input or deadline (see eval.exits); "
            "slim: simple images smaller",
            default="",
            choices=("", *WAYS),
        ),
    ),
    config_help="replaces a value of the section eval that the model was trained with: window_px, flip, scales, exits",
)


def main(argv: Sequence[str]) -> None:
    """Parses, loads, predicts; unreadable files are reported after all others are done."""
    args = cli.parse(COMMAND, argv)
    arch, variables, card = load_model(model_folder(Path(args["workdir"]), args["checkpoint"]))
    config = build.evaluation_config(card, argv)
    model = Model(arch, variables, card, build.answer_mode(config.eval))
    runtime.use_compilation_cache(build.cache_folder(config) / "xla")
    way = build.exit_way(config.eval, args["mode"])
    one = routed(model, way)
    print(f"answers: {model.mode}" + (f", {way.name}" if answers_early(arch) or one else ""))
    output = Path(args["output"])
    models = {"": one} if one else parts(model, way)
    for name, each in models.items():
        done, failed = predict_folder(each, Path(args["input"]), output / name, say=print)
        print(f"{done} images segmented into {output / name}")
    if way.name == INPUT:
        print("images that left at each exit, the final answer last: " + str(one.left))
    if way.name == DEADLINE:
        late = sum(image.late for image in one.done)
        print(f"images that were late: {late} of {len(one.done)}")
    if failed:
        shown = "; ".join(f"{path}: {why}" for path, why in failed[:20])
        more = f" and {len(failed) - 20} more" if len(failed) > 20 else ""
        raise UserError(
            f"{len(failed)} of {done + len(failed)} files could not be read", got=shown + more
        )


if __name__ == "__main__":
    sys.exit(cli.run(main))
