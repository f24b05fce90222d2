"""`python -m jaxseg.evaluate --workdir=W [--split=val]`; writes W/metrics_<split>.json."""

import json
import sys
from collections.abc import Sequence
from pathlib import Path

import jax

from jaxseg import build, cli, runtime
from jaxseg.arch import digest
from jaxseg.data.pipeline import eval_stream
from jaxseg.errors import UserError
from jaxseg.inference.artifact import load_model
from jaxseg.inference.evaluation import evaluate
from jaxseg.inference.predictor import make_score, model_folder

SPLITS = ("train", "calib", "val", "test")
COMMAND = cli.Command(
    "evaluate",
    "Scores a trained or deployed model: mIoU over the whole split at the labels' own resolution.",
    (
        cli.Flag("workdir", "a training folder or a deployed folder", required=True),
        cli.Flag("split", "which images", default="val", choices=SPLITS),
        cli.Flag("checkpoint", "which weights", default="last", choices=("last", "best")),
    ),
    config_help="replaces a value of the sections data and eval that the model was trained with",
)


def main(argv: Sequence[str]) -> None:
    """Parses, loads, evaluates, writes, prints."""
    args = cli.parse(COMMAND, argv)
    workdir = Path(args["workdir"])
    arch, variables, card = load_model(model_folder(workdir, args["checkpoint"]))
    config = build.evaluation_config(card, argv)
    runtime.use_compilation_cache(build.cache_folder(config) / "xla")
    split, plan = build.evaluation_split(config, card, args["split"])
    with eval_stream(split, plan, num_workers=config.data.num_workers) as batches:
        tally = evaluate(
            make_score(arch, card.mean, card.std),
            jax.device_put(variables),
            batches,
            arch.num_classes,
        )
    scores = tally.scores()
    per_class = dict(zip(card.class_names, scores.pop("iou"), strict=True))
    record = {
        "schema": 1,
        "split": args["split"],
        **scores,
        "per_class_iou": per_class,
        "void_rule": "pixels of void ground truth ignored; arg-max over the classes, never void",
        "data": {"name": config.data.name, "raw_split": split.name},
        "checkpoint": args["checkpoint"],
        "checkpoint_step": card.origin.get("step"),
        "arch_hash": digest(arch),
        **runtime.provenance(),
    }
    path = workdir / f"metrics_{args['split']}.json"
    try:
        path.write_text(json.dumps(record, indent=2) + "\n")
    except OSError as error:
        raise UserError(f"cannot write {path}", got=error.strerror) from error
    print(_table(record))
    print(f"written to {path}")


def _table(record: dict) -> str:
    """The scores as text, in percent."""

    def percent(value: float | None) -> str:
        return "absent" if value is None else f"{100 * value:6.2f}"

    rows = [(name, percent(value)) for name, value in record["per_class_iou"].items()]
    rows += [("mIoU", percent(record["miou"])), ("mean class accuracy", percent(record["macc"]))]
    rows += [("pixel accuracy", percent(record["aacc"]))]
    wide = max(len(name) for name, _ in rows)
    head = (
        f"{record['data']['name']} {record['split']}, {record['num_images']} images, IoU in percent"
    )
    return "\n".join([head] + [f"  {name:<{wide}}  {value}" for name, value in rows])


if __name__ == "__main__":
    sys.exit(cli.run(main))
