"""`python -m jaxseg.deploy --workdir=W --output=DIR [--numbers=int8] [--max-latency-ms | --max-macs | --min-miou]`.

Two things, one after the other: a network becomes one of int8 codes, if asked for; one with early exits becomes the
best part of itself within limits, for this device.
"""

import functools
import json
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jaxseg import build, cli, runtime
from jaxseg.arch import Arch
from jaxseg.conversion.ranges import METHODS
from jaxseg.data.pipeline import eval_stream
from jaxseg.errors import UserError
from jaxseg.inference import collect as collecting
from jaxseg.inference.artifact import CARD, Card, load_model, save_model
from jaxseg.inference.curve import draw_front
from jaxseg.inference.evaluation import evaluate
from jaxseg.inference.exits import CONFIDENCES, MEASURES, Policy
from jaxseg.inference.part_times import measure_parts
from jaxseg.inference.predictor import make_score, model_folder
from jaxseg.inference.search import BUDGETED, FINAL, INPUT, SETTINGS, Deployment, Search
from jaxseg.inference.side_by_side import Timed, side_by_side
from jaxseg.inference.to_codes import to_codes
from jaxseg.inference.ways import Way
from jaxseg.models import mess
from jaxseg.models.itnet import is_looped
from jaxseg.models.mess import costs
from jaxseg.numbers import COMPUTE, INT8

SPLITS = ("calib", "train", "val")
TIMED = 50
"""Images that the written folder is timed on."""
NUMBERS = (*COMPUTE, INT8)
OFFERS = 6
"""Lines of what there is, where a wish cannot be met."""
IMAGES = 64
"""Looked at by a calibration."""
COMMAND = cli.Command(
    "deploy",
    "Turns a network into int8, and chooses exits, heads and thresholds for this device; writes a folder.",
    (
        cli.Flag("workdir", "a training folder or a deployed folder", required=True),
        cli.Flag("output", "the folder to write", required=True),
        cli.Flag("checkpoint", "which weights", default="last", choices=("last", "best")),
        cli.Flag("numbers", "of the computation", default="", choices=("", *NUMBERS)),
        cli.Flag(
            "calibration",
            "of int8 networks that were not trained as such: how ranges of values are chosen",
            default="mse",
            choices=tuple(METHODS),
        ),
        cli.Flag("images", "of the split that a calibration looks at", default=str(IMAGES)),
        cli.Flag("max-latency-ms", "mean milliseconds per image on this device, at the most"),
        cli.Flag("max-macs", "mean multiply-adds per image, at the most"),
        cli.Flag("min-miou", "on the split of the search, in [0, 1], at the least"),
        cli.Flag("setting", "only one of them; default: whatever is best", choices=SETTINGS),
        cli.Flag(
            "split", "whose images are searched on; never test", default="calib", choices=SPLITS
        ),
        cli.Flag("confidence", "of a pixel", default="top1", choices=CONFIDENCES),
        cli.Flag("measure", "of an image", default="pixels", choices=MEASURES),
        cli.Flag("height", "input height in pixels; default: of the split's first image"),
        cli.Flag("width", "input width in pixels; default: of the split's first image"),
    ),
    config_help="replaces a value of the sections data and eval that the model was trained with",
)


def main(argv: Sequence[str]) -> None:
    """Parses, loads, looks once, searches, writes, measures what it wrote, prints."""
    args = cli.parse(COMMAND, argv)
    limits = {name: _number(args, name) for name in ("max_latency_ms", "max_macs", "min_miou")}
    if limits["max_latency_ms"] is not None and limits["max_macs"] is not None:
        raise UserError("deploy", expected="either --max-latency-ms or --max-macs, not both")
    arch, variables, card = load_model(model_folder(Path(args["workdir"]), args["checkpoint"]))
    numbers = args["numbers"] or (INT8 if arch.numbers.in_codes else COMPUTE[0])
    _check(arch, numbers, limits)
    if (Path(args["output"]) / CARD).exists():
        print(f"note: the model in {args['output']} and what lies beside it will be replaced")
    config = build.evaluation_config(card, argv)
    split, plan = build.evaluation_split(config, card, args["split"])
    if not len(split):
        raise UserError(f"split {args['split']} holds no images", do="choose another with --split")
    runtime.use_compilation_cache(build.cache_folder(config) / "xla")
    size_px = tuple(
        cli.whole(args, name, int(split.sizes_px[0, i]))
        for i, name in enumerate(("height", "width"))
    )
    same = [i for i in range(len(split)) if tuple(split.sizes_px[i]) == size_px][:TIMED]
    if not same:
        raise UserError(
            "--height, --width", got=size_px, expected="the size of some images of the split"
        )
    images = [split[i]["image"] for i in same]
    arch = replace(arch, aux=())
    trained, told = (arch, variables), {"split": args["split"]}
    if numbers == INT8:
        most = cli.whole(args, "images")
        print(f"turning the network into {INT8}", flush=True)
        arch, variables, how = to_codes(
            arch, variables, card, split, method=args["calibration"], most=most
        )
        told |= how
    else:
        arch = replace(arch, numbers=replace(arch.numbers, compute=numbers))
    stream = functools.partial(eval_stream, split, plan, num_workers=config.data.num_workers)
    if not arch.exits:
        _write_int8(Path(args["output"]), (arch, variables), trained, card, stream, images, told)
        return
    policy = Policy(confidence=args["confidence"], measure=args["measure"])

    print(f"running every head over {len(split)} images of {args['split']}", flush=True)
    begin_s = time.perf_counter()
    with stream() as batches:
        evidence = collecting.collect(arch, variables, card.mean, card.std, batches, policy=policy)
    looked_s = time.perf_counter()
    print("timing the parts of the network", flush=True)
    unit = "MACs" if limits["max_macs"] is not None else "ms"
    if unit == "MACs":
        found = costs(arch, size_px)
        path_cost = lambda chain, place, _: found.paths(chain[: place + 1])[-1]  # noqa: E731
    else:
        path_cost = measure_parts(arch, variables, card.mean, card.std, size_px, policy).path
    timed_s = time.perf_counter()
    print("searching", flush=True)
    search = Search(
        evidence,
        path_cost,
        image=collecting.IMAGE,
        settings=(args["setting"],) if args["setting"] else (FINAL, BUDGETED, INPUT),
    )
    least = limits["min_miou"]
    most = limits["max_macs"] if unit == "MACs" else limits["max_latency_ms"]
    front = search.pareto()
    try:
        chosen = search.best(
            max_cost=np.inf if most is None else most, min_miou=-np.inf if least is None else least
        )
    except UserError as error:  # what was measured is not lost with a wish that cannot be met
        print("\n".join(["there is:", *_offers(arch, front, unit)]))
        raise UserError(str(error), do=f"choose a limit among those above, in {unit}") from error
    searched_s = time.perf_counter()

    small, parts, way = assembled(arch, variables, chosen, policy)
    evaluation = {**card.evaluation, "exits": way.to_dict()}
    expected = {"expected": {**asdict(chosen), "unit": unit}}
    origin = {**card.origin, "deployed": {**told, **expected, **runtime.provenance()}}
    output = Path(args["output"])
    save_model(output, small, parts, replace(card, evaluation=evaluation, origin=origin))
    small, parts, _ = load_model(output)  # what is told is of what was written
    both = side_by_side(Timed(small, parts, way), Timed(*_final(arch, variables)), card, images)
    promised = path_cost((len(arch.exits),), 0, FINAL)
    record = {
        "schema": 1,
        **told,
        "num_images": len(split),
        "shape": size_px,
        "numbers": numbers,
        "limits": {k: v for k, v in limits.items() if v is not None},
        "unit": unit,
        "chosen": _row(arch, chosen),
        "final_only": {"miou": evidence.miou(len(arch.exits)), "cost": promised},
        "ratio_promised": chosen.cost / promised,
        **both,
        "configurations": search.count,
        "with_two_gates": search.by_gates.get(2, 0),
        "seconds": {
            "look": looked_s - begin_s,
            "time": timed_s - looked_s,
            "search": searched_s - timed_s,
        },
        "pareto": [_row(arch, x) for x in front],
        **runtime.provenance(),
    }
    _write(output, record)
    draw_front(front, chosen, record["final_only"], unit, output / "pareto.png")
    print(_told(record))
    late = limits["max_latency_ms"]
    if late is not None and record["mean_ms"] > late:
        print(
            f"note: {record['mean_ms']:.2f} ms were measured, more than the {late:g} ms that were asked for; "
            "is the machine busy? a lower limit leaves room"
        )
    print(f"written to {output}")


def _check(arch: Arch, numbers: str, limits: dict[str, float | None]) -> None:
    """Said before anything is done: there must be something to choose from, or to turn into int8."""
    if arch.numbers.in_codes and numbers != INT8:
        raise UserError("--numbers", got=numbers, expected=f"{INT8}: the model has no floats left")
    if arch.exits or (numbers == INT8 and not any(limits.values())):
        return
    if numbers == INT8:
        named = ", ".join("--" + name.replace("_", "-") for name, x in limits.items() if x)
        raise UserError(
            named,
            got="a network without early exits",
            expected="one with them, of which a part can be chosen",
            do="leave it out",
        )
    if is_looped(arch):
        raise UserError(
            "deploy",
            got="a loop",
            expected="a network with early exits",
            do="choose --numbers=int8; its number of passes is chosen with evaluate --mode=budgeted "
            "--config.eval.exits.chosen=(N,)",
        )
    raise UserError(
        "deploy",
        got="a network without early exits",
        expected="one with them",
        do="choose --numbers=int8, train exits with --config.mess.num_exits, or use the folder as it is",
    )


def _write_int8(
    output: Path,
    made: tuple[Arch, dict[str, Any]],
    trained: tuple[Arch, dict[str, Any]],
    card: Card,
    stream: Callable[[], Any],
    images: Sequence[np.ndarray],
    told: dict[str, Any],
) -> None:
    """Writes the folder, and tells what became of the answers, the bytes and the time."""
    origin = {**card.origin, "deployed": {**told, **runtime.provenance()}}
    save_model(output, *made, replace(card, origin=origin))
    made = load_model(output)[:2]  # what is told is of what was written
    scores = {}
    for name, (arch, variables) in (("int8", made), ("trained", trained)):
        score = make_score(arch, card.mean, card.std)
        with stream() as batches:
            tally = evaluate(score, jax.device_put(variables), batches, arch.num_classes)
        scores[name] = tally.scores()
    timed = side_by_side(Timed(*made, Way()), Timed(*trained, Way()), card, images)
    sizes = {
        name: sum(np.asarray(x).nbytes for x in jax.tree.leaves(_without_aux(variables)))
        for name, (_, variables) in (("int8", made), ("trained", trained))
    }
    record = {
        "schema": 1,
        **told,
        "numbers": INT8,
        "num_images": scores["int8"]["num_images"],
        "shape": list(images[0].shape[:2]),
        "miou": scores["int8"]["miou"],
        "trained_miou": scores["trained"]["miou"],
        "bytes": sizes["int8"],
        "trained_bytes": sizes["trained"],
        "mean_ms": timed["mean_ms"],
        "trained_mean_ms": timed["final_only_mean_ms"],
        "timed_images": timed["timed_images"],
        **runtime.provenance(),
    }
    _write(output, record)
    print(
        f"int8 ({told['conversion']}), {record['num_images']} images of {told['split']}: "
        f"mIoU {100 * record['miou']:.2f} % (trained network {100 * record['trained_miou']:.2f} %)\n"
        f"  {record['bytes'] / 1e6:.2f} MB ({record['trained_bytes'] / 1e6:.2f} MB), "
        f"{record['mean_ms']:.2f} ms an image ({record['trained_mean_ms']:.2f} ms)\n"
        f"written to {output}"
    )


def _without_aux(variables: dict[str, Any]) -> dict[str, Any]:
    return {
        kind: {name: tree for name, tree in parts.items() if not name.startswith("aux_")}
        for kind, parts in variables.items()
    }


def _write(output: Path, record: dict[str, Any]) -> None:
    try:
        (output / "deploy.json").write_text(json.dumps(record, indent=2) + "\n")
    except OSError as error:
        raise UserError(f"cannot write {output / 'deploy.json'}", got=error.strerror) from error


def assembled(
    arch: Arch, variables: dict[str, Any], chosen: Deployment, policy: Policy
) -> tuple[Arch, dict[str, Any], Way]:
    """What is deployed: the smaller network, its variables, and how it answers."""
    final = len(arch.exits)
    early = [h for h in chosen.heads if h != final]
    small, parts = mess.sub_network(arch, variables, early, final=chosen.heads[-1] == final)
    setting = FINAL if chosen.setting == BUDGETED else chosen.setting
    return small, parts, Way(setting, (), policy, chosen.pixel, chosen.image)


def _final(arch: Arch, variables: dict[str, Any]) -> tuple[Arch, dict[str, Any], Way]:
    """The original network alone."""
    small, parts = mess.sub_network(arch, variables, (), final=True)
    return small, parts, Way()


def _row(arch: Arch, one: Deployment) -> dict[str, Any]:
    """For people: heads by name."""
    names = [_name(arch, head) for head in one.heads]
    return {**asdict(one), "heads": names}


def _offers(arch: Arch, front: Sequence[Deployment], unit: str) -> list[str]:
    """The front thinned to `OFFERS` lines, for who wished what there is not."""
    at = np.unique(np.linspace(0, len(front) - 1, OFFERS).astype(int))
    return [
        f"  mIoU {100 * x.miou:5.2f} %  {x.cost:.4g} {unit}  {x.setting}: "
        + "; ".join(_name(arch, head) for head in x.heads)
        for x in (front[i] for i in at)
    ]


def _name(arch: Arch, head: int) -> str:
    if head == len(arch.exits):
        return "final"
    found = arch.exits[head]
    return f"exit_{head} after {found.inputs[0]}: {found.kind} {list(found.widths)}"


def _number(args: dict[str, Any], name: str) -> float | None:
    """A flag as a number above 0, or None."""
    if args[name] is None:
        return None
    try:
        value = float(args[name])
    except ValueError:
        value = -1.0
    if not 0 < value < float("inf"):
        flag = "--" + name.replace("_", "-")
        raise UserError(flag, got=repr(args[name]), expected="a number above 0")
    return value


def _told(record: dict[str, Any]) -> str:
    chosen, final = record["chosen"], record["final_only"]
    shares = ", ".join(f"{100 * x:.0f} %" for x in chosen["taken"])
    thresholds = (
        f", thresholds of pixels {chosen['pixel']}, of images {chosen['image']}"
        if chosen["image"]
        else ""
    )
    return (
        f"{record['configurations']} configurations in {record['seconds']['search']:.1f} s, "
        f"{record['num_images']} images of {record['split']}\n"
        f"{chosen['setting']}: {'; '.join(chosen['heads'])}{thresholds}\n"
        f"  leave there: {shares}\n"
        f"  expected: mIoU {100 * chosen['miou']:.2f} %, {chosen['cost']:.4g} {record['unit']} "
        f"(final only: {100 * final['miou']:.2f} %, {final['cost']:.4g} {record['unit']})\n"
        f"  measured: {record['mean_ms']:.2f} ms, {record['ratio_measured']:.3f} of final only "
        f"({record['final_only_mean_ms']:.2f} ms); promised {record['ratio_promised']:.3f}"
    )


if __name__ == "__main__":
    sys.exit(cli.run(main))
