"""`python -m jaxseg.evaluate --workdir=W [--split=val]`; writes W/metrics_<split>.json and the confusion matrix."""

import json
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax

from jaxseg import build, cli, runtime
from jaxseg.arch import digest
from jaxseg.data.pipeline import eval_stream
from jaxseg.errors import UserError
from jaxseg.inference.artifact import load_model
from jaxseg.inference.augmented import PLAIN
from jaxseg.inference.confusion import draw_confusion, write_confusion
from jaxseg.inference.evaluation import (
    ByExit,
    ByGroup,
    Tally,
    Watch,
    evaluate,
    evaluate_each,
    watch_boundaries,
    watched,
)
from jaxseg.inference.exits import NEVER
from jaxseg.inference.itnet import Punctual, make_scores
from jaxseg.inference.own_size import OwnSize
from jaxseg.inference.predictor import Model, Score, labels_only, make_score, model_folder
from jaxseg.inference.ways import (
    ANYTIME,
    INPUT,
    WAYS,
    AnyTime,
    InputDependent,
    Way,
    answers_early,
    parts,
    routed,
)
from jaxseg.models import mess
from jaxseg.models.itnet import account, is_looped, num_iterations
from jaxseg.objectives.boundary import BoundaryTally
from jaxseg.outside import write_file
from jaxseg.types import Batch

SPLITS = ("train", "calib", "val", "test")
COMMAND = cli.Command(
    "evaluate",
    "Scores a trained or deployed model: mIoU over the whole split at the labels' own resolution.",
    (
        cli.Flag("workdir", "a training folder or a deployed folder", required=True),
        cli.Flag("split", "which images", default="val", choices=SPLITS),
        cli.Flag("checkpoint", "which weights", default="last", choices=("last", "best")),
        cli.Flag(
            "mode",
            "final; of early exits budgeted, anytime, input or deadline (see eval.exits); slim: simple images smaller",
            default="",
            choices=("", *WAYS),
        ),
    ),
    config_help="replaces a value of the sections data and eval that the model was trained with",
)


def main(argv: Sequence[str]) -> None:
    """Parses, loads, evaluates, writes, prints."""
    args = cli.parse(COMMAND, argv)
    workdir = Path(args["workdir"])
    if (workdir / "pictures").is_symlink():  # a folder that came from elsewhere does not say where
        raise UserError(f"{workdir / 'pictures'} is a link", expected="a folder", do="remove it")
    arch, variables, card = load_model(model_folder(workdir, args["checkpoint"]))
    config = build.evaluation_config(card, argv)
    runtime.use_compilation_cache(build.cache_folder(config) / "xla")
    split, plan = build.evaluation_split(config, card, args["split"])
    mode = build.answer_mode(config.eval)
    boundaries = None
    if config.eval.boundary_f1:
        boundaries = BoundaryTally(arch.num_classes, config.eval.boundary_tolerance_frac)
    model, way = Model(arch, variables, card, mode), build.exit_way(config.eval, args["mode"])
    one = routed(model, way)

    def run(score: Score, variables: Any, watch: Watch | None = None) -> Tally:
        with eval_stream(split, plan, num_workers=config.data.num_workers) as batches:
            return evaluate(score, variables, batches, arch.num_classes, watch=watch)

    names = [split.spec.group(name) for name in split.names]
    groups = ByGroup(names, arch.num_classes) if len(set(names)) > 1 else None
    watch = watched(watch_boundaries(boundaries) if boundaries else None, groups)
    size_px = tuple(map(int, split.sizes_px[0]))
    if one:
        tally, exits = _routed(one, run, watch, arch.num_classes, size_px)
    elif way.name == ANYTIME and is_looped(arch) and not arch.exits and mode == PLAIN:
        with eval_stream(split, plan, num_workers=config.data.num_workers) as batches:
            tally, exits = _every_pass(model, way, batches, size_px, watch)
    else:
        rows = []
        for name, part in parts(model, way).items():
            score = make_score(part.arch, card.mean, card.std, mode)
            last = name in ("", "final")
            tally = run(score, jax.device_put(part.variables), watch if last else None)
            # Of any-time answers there is more to it, see `_with_costs`.
            macs = mess.costs(part.arch, size_px).final_only()
            rows.append({"name": name, "miou": tally.scores()["miou"], "macs": macs})
        exits = {"exits": _with_costs(rows, model, way, size_px)} if way.name == ANYTIME else {}
    scores = tally.scores()
    scores["per_class_iou"] = scores.pop("iou")
    if boundaries:
        scores |= boundaries.scores()
    if groups:
        scores["by_group"] = groups.scores()
    for key in scores.keys() & {"per_class_iou", "per_class_boundary_f1"}:
        scores[key] = dict(zip(card.class_names, scores[key], strict=True))
    record = {
        "schema": 1,
        "split": args["split"],
        **scores,
        **({"way": way.name, **exits} if answers_early(arch) or one else {}),
        "mode": mode.record(),
        "void_rule": "pixels of void ground truth ignored; arg-max over the classes, never void",
        "data": {"name": config.data.name, "raw_split": split.name},
        "checkpoint": args["checkpoint"],
        "checkpoint_step": card.origin.get("step"),
        "arch_hash": digest(arch),
        **runtime.provenance(),
    }
    path = workdir / f"metrics_{args['split']}.json"
    table = workdir / f"confusion_{args['split']}.csv"
    picture = workdir / "pictures" / f"confusion_{args['split']}.png"
    try:
        write_file(path, (json.dumps(record, indent=2) + "\n").encode())
    except OSError as error:
        raise UserError(f"cannot write {path}", got=error.strerror) from error
    write_confusion(tally.confusion, card.class_names, table)
    draw_confusion(tally.confusion, card.class_names, picture)
    print(_table(record))
    print(f"written to {path}, {table} and {picture}")


def _every_pass(
    model: Model,
    way: Way,
    batches: Iterable[Batch],
    size_px: tuple[int, int],
    watch: Watch | None,
) -> tuple[Tally, dict[str, Any]]:
    """(sums of the last pass, the section `exits`): one run over the split for all passes of a loop."""
    arch, card = model.arch, model.card
    passes = (*way.exits(arch), num_iterations(arch))
    score = make_scores(arch, card.mean, card.std, passes)
    variables = jax.device_put(model.variables)
    tallies = evaluate_each(score, variables, batches, arch.num_classes, len(passes), watch=watch)
    rows = [
        {"name": f"pass_{n}", "miou": tally.scores()["miou"], **account(arch, size_px, n)._asdict()}
        for n, tally in zip(passes, tallies, strict=True)
    ]
    return tallies[-1], {"exits": _with_costs(rows, model, way, size_px)}


def _routed(
    one: InputDependent | Punctual | OwnSize,
    run: Callable[..., Tally],
    watch: Watch | None,
    num_classes: int,
    size_px: tuple[int, int],
) -> tuple[Tally, dict[str, Any]]:
    """(sums, the section `exits`) where every image has a way of its own."""
    if not isinstance(one, InputDependent):
        return run(labels_only(one), None, watch), one.record(size_px)
    by_exit = ByExit(one.answered, len(one.left), num_classes)
    tally, exits = run(labels_only(one), None, watched(watch, by_exit)), one.record(size_px)
    rows = zip(exits["exits"], by_exit.mious(), strict=True)
    return tally, exits | {"exits": [row | {"miou": miou} for row, miou in rows]}


def _with_costs(
    rows: list[dict[str, Any]], model: Model, way: Way, size_px: tuple[int, int]
) -> list[dict[str, Any]]:
    """The rows of all exits with `latency_ms`, which whole images alone have, and nobody left.

    Of exits, `macs` and `latency_ms` are what is spent until the answer is there, earlier heads included; of a loop
    they are those of an answer after so many passes, as if nobody had asked before.
    """
    times: Sequence[float | None] = [None] * len(rows)
    if model.arch.exits:
        one = AnyTime.of(replace(model, mode=PLAIN), way)
        spent = zip(rows, one.macs(size_px), strict=True)
        rows = [row | {"macs": macs} for row, macs in spent]
        times = one.times_ms(size_px) if model.mode == PLAIN else times
    elif model.mode == PLAIN:
        stays = replace(way, name=INPUT, image=(NEVER,))
        times = InputDependent.of(model, stays).path_ms(size_px)
    return [
        row | {"latency_ms": ms, "frac_taken": None} for row, ms in zip(rows, times, strict=True)
    ]


def _table(record: dict) -> str:
    """The scores as text, in percent, classes in their order."""

    def percent(value: float | None) -> str:
        return "absent" if value is None else f"{100 * value:6.2f}"

    titles, rows = ["IoU"], [[name, value] for name, value in record["per_class_iou"].items()]
    rows.append(["mean (mIoU)", record["miou"]])
    if "boundary_f1" in record:
        smallest, largest = (f"{x:.2f}" for x in record["boundary_tolerance_px"])
        within = smallest if smallest == largest else f"{smallest} to {largest}"
        titles.append(f"boundary F1 within {within} px")
        for row, value in zip(
            rows, [*record["per_class_boundary_f1"].values(), record["boundary_f1"]], strict=True
        ):
            row.append(value)
    rows += [["mean class accuracy", record["macc"]], ["pixel accuracy", record["aacc"]]]
    for group, row in record.get("by_group", {}).items():
        rows.append([f"{group} (mIoU)", row["miou"]])
    for row in record.get("exits", ()):
        left = row["frac_taken"] is not None
        what, value = ("images", row["frac_taken"]) if left else ("mIoU", row["miou"])
        rows.append([f"{row['name']} ({what})", value])
    wide = max(len(name) for name, *_ in rows)
    return "\n".join(
        [
            f"{record['data']['name']} {record['split']}, {record['num_images']} images, in percent",
            f"  {record['mode']['description']}",
            f"  {'':<{wide}}  " + "  ".join(f"{title:>6}" for title in titles),
        ]
        + [f"  {name:<{wide}}  " + "  ".join(map(percent, values)) for name, *values in rows]
    )


if __name__ == "__main__":
    sys.exit(cli.run(main))
