"""`python -m jaxseg.data check|prepare|stats|samples --config=X`: everything one asks of a data set."""

import sys
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
from ml_collections import ConfigDict

from jaxseg import build, cli
from jaxseg.data import check, dance, dance_report, datasets, stats
from jaxseg.data.builders import camvid
from jaxseg.data.dance_scores import MEASURES, ranked
from jaxseg.errors import UserError, unknown_name
from jaxseg.inference import pictures

CONFIG = cli.Flag("config", "a config file; its section data says which set", required=True)
SPLIT = cli.Flag("split", "which images: a split of the set", default="train")
NUM_EXAMPLES = 6
HELP = "replaces a value of the config, such as --config.data.dir=FOLDER"


def _command(verb: str, purpose: str, *flags: cli.Flag) -> cli.Command:
    return cli.Command(f"data {verb}", purpose, (CONFIG, *flags), config_help=HELP)


COMMANDS = {
    "check": _command(
        "check",
        "Names every file of the raw data set that training could not use; status 2 if there is one.",
    ),
    "prepare": _command(
        "prepare",
        "Makes the prepared copy that training reads (it would be made on first use anyway).",
        cli.Flag("download", "fetch the raw set into data.dir first (camvid)", switch=True),
    ),
    "stats": _command(
        "stats",
        "Class frequencies, and class weights ready to paste; complexity of the images where it is asked for.",
        SPLIT,
        cli.Flag(
            "complexity",
            "a measure: its histogram, and what data slimming by it would do [config.dance.data.measure]",
            choices=tuple(MEASURES),
        ),
        cli.Flag("output", "a PNG file: examples of every size of data slimming"),
    ),
    "samples": _command(
        "samples",
        "Writes images of the set as PNG files, to look at or to predict.",
        SPLIT,
        cli.Flag("count", "how many", default="6"),
        cli.Flag("output", "a folder, made if it is not there", required=True),
    ),
}


def main(argv: Sequence[str]) -> None:
    """The verb comes first, flags follow."""
    if not argv or argv[0] in ("-h", "--help"):
        rows = [f"  {verb:<8} {command.purpose}" for verb, command in COMMANDS.items()]
        print("\n".join(["usage: python -m jaxseg.data VERB --config=X", "", *rows]))
        if not argv:
            raise UserError("data needs a verb", expected="one of " + ", ".join(COMMANDS))
        return
    verb, rest = argv[0], argv[1:]
    if verb not in COMMANDS:
        raise unknown_name("verb of data", verb, COMMANDS)
    args = cli.parse(COMMANDS[verb], rest)
    config = cli.override(cli.load_config(args["config"]), rest)
    {"check": _check, "prepare": _prepare, "stats": _stats, "samples": _samples}[verb](config, args)


def _check(config: ConfigDict, args: dict) -> None:
    report = check.check(config.data.name, config.data.dir)
    print(check.render(report))
    if report.problems:
        raise UserError(
            f"{len(report.problems)} problems found", do="mend or remove the files above"
        )


def _prepare(config: ConfigDict, args: dict) -> None:
    if args["download"]:
        if not config.data.name.startswith("camvid"):
            raise UserError("--download", got=config.data.name, expected="camvid or camvid_drives")
        if not config.data.dir:
            raise UserError("--download needs a place", do="give --config.data.dir=FOLDER")
        print(camvid.download_camvid(Path(config.data.dir)))
    folder = datasets.prepare(
        config.data.name, dir=config.data.dir, cache_dir=config.data.cache_dir
    )
    print(f"prepared in {folder}")


def _stats(config: ConfigDict, args: dict) -> None:
    split = build.open_split(config.data, args["split"])
    if args["complexity"]:
        config.dance.data.measure = args["complexity"]
    settings = dance.configured(**config.dance.data)
    if settings and not settings.changes:
        settings = dance.DataSlimming(settings.measure, settings.rank)  # what it usually would do
    print(stats.render(stats.stats(split)))
    if settings:
        _complexity(split, settings, args)
    elif args["output"]:
        raise UserError("--output", got=args["output"], expected="--complexity with it")


def _complexity(split: datasets.Split, settings: dance.DataSlimming, args: dict) -> None:
    found, q = ranked(split, settings.measure, settings.rank)
    print(dance_report.render(f"{split.spec.name} {split.name}", found, q, settings))
    if not args["output"]:
        return
    rows = []
    for ratio, chosen in zip(
        settings.ratios, dance_report.examples(q, settings, NUM_EXAMPLES), strict=True
    ):
        row = [_titled(split[i]["image"], f"r {ratio:g}  q {q[i]:.2f}") for i in chosen]
        empty = np.full_like(split[0]["image"], 255)
        rows.append(row + [empty] * (NUM_EXAMPLES - len(row)))
    pictures.write_png(Path(args["output"]), pictures.contact_sheet(rows))
    print(f"examples of every size, a row each, in {args['output']}")


def _titled(image: np.ndarray, title: str) -> np.ndarray:
    """The image with words over its upper edge, white on black."""
    image, high = image.copy(), max(12, image.shape[0] // 12)
    image[:high] = 0
    font, at = cv2.FONT_HERSHEY_SIMPLEX, (4, high - high // 4)
    return cv2.putText(image, title, at, font, high / 32, (255,) * 3, 1, cv2.LINE_AA)


def _samples(config: ConfigDict, args: dict) -> None:
    if not args["count"].isdecimal() or int(args["count"]) < 1:
        raise UserError("--count", got=repr(args["count"]), expected="a whole number, 1 or more")
    split = build.open_split(config.data, args["split"])
    output, count = Path(args["output"]), min(int(args["count"]), len(split))
    try:
        output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot make {output}", got=error.strerror) from error
    # Spread over the split, since neighbours of a video look alike.
    for i in range(count):
        example = split[i * len(split) // count]
        pictures.write_png(output / f"{Path(example['name']).stem}.png", example["image"])
    print(f"{count} images of {config.data.name} {args['split']} in {output}")


if __name__ == "__main__":
    sys.exit(cli.run(main))
