"""`python -m jaxseg.predict --workdir=W --input=FILE_OR_DIR --output=DIR`; label maps, colours, overlays."""

import sys
from collections.abc import Sequence
from pathlib import Path

from jaxseg import cli, runtime
from jaxseg.data import datasets
from jaxseg.errors import UserError
from jaxseg.inference.folder import predict_folder
from jaxseg.inference.predictor import Model

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
    ),
)


def main(argv: Sequence[str]) -> None:
    """Parses, loads, predicts; unreadable files are reported after all others are done."""
    args = cli.parse(COMMAND, argv)
    model = Model.load(args["workdir"], args["checkpoint"])
    runtime.use_compilation_cache(datasets.cache_root(model.card.data["cache_dir"]) / "xla")
    done, failed = predict_folder(model, Path(args["input"]), Path(args["output"]), say=print)
    print(f"{done} images segmented into {args['output']}")
    if failed:
        shown = "; ".join(f"{path}: {why}" for path, why in failed[:20])
        more = f" and {len(failed) - 20} more" if len(failed) > 20 else ""
        raise UserError(
            f"{len(failed)} of {done + len(failed)} files could not be read", got=shown + more
        )


if __name__ == "__main__":
    sys.exit(cli.run(main))
