"""From a config to plain values: the only reader of configs besides `cli.py`.

Below this file nothing knows what a config is; everything takes keyword arguments.
"""

import functools
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from jaxseg import cli, defaults, ranges, runtime, sections
from jaxseg.arch import Arch
from jaxseg.data import dance, dance_report, dance_scores, datasets
from jaxseg.data.dance_sizes import SizeRule
from jaxseg.data.plan import EvalPlan, TrainPlan
from jaxseg.data.transforms import Augment
from jaxseg.errors import UserError, short, unknown_name
from jaxseg.inference.artifact import Card
from jaxseg.inference.augmented import Mode
from jaxseg.inference.exits import Policy
from jaxseg.inference.ways import Way
from jaxseg.methods import bfcn, dance_data, integer
from jaxseg.models import unseen_taps, zoo
from jaxseg.models.networks import LOOP_OPTIONS
from jaxseg.training import steps
from jaxseg.training.loop import Every
from jaxseg.training.optim import Optim
from jaxseg.training.parallel import Parallel
from jaxseg.training.phases import Phase
from jaxseg.training.plan import Plan
from jaxseg.weights import pretrained


def training_plan(config: ConfigDict, *, name: str, resuming: bool = False) -> Plan:
    """Everything that `training.run.train` needs.

    Args:
        config: complete (see `defaults.py`).
        name: of the config, for the model's card.
        resuming: the run has begun, so its pretrained weights need not be there any more.

    Raises:
        UserError: a value that cannot be.
    """
    ranges.check_all(config)
    answer_mode(config.eval)
    parallel = Parallel.over(config.parallel.mode, config.data.batch_size)
    spec = datasets.describe(config.data.name, config.data.dir)
    arch = architecture(config, spec)
    # A dry run: a mistake in any phase or in the weights to start from is found before data is prepared and
    # the folder is claimed, let alone after a day of training.
    for phase in phases(config, arch, 1):
        Parallel.over(config.parallel.mode, phase.plan.batch_size)
    if config.model.pretrained and not resuming:
        pretrained.values(arch, pretrained.find(config.model.pretrained))
    train_split = open_split(config.data, config.data.train_split)
    eval_split = open_split(config.data, config.eval.split)
    q, notes, model_card = (), (), card(config, spec, name)
    if slimming := dance.configured(**config.dance.data):
        found, q = dance_scores.ranked(train_split, slimming.measure, slimming.rank)
        q = slimming.dealt(q, config.seed)
        rule = SizeRule.learnt(slimming, found.values, dance_data.output_stride(arch))
        model_card = replace(model_card, sizes=rule.to_dict() if rule else {})
        notes = ("data slimming:", *dance_report.shares(found, q, slimming))
    made = phases(config, arch, len(train_split), tuple(q))
    notes += _unseen(arch, made, eval_split)
    return Plan(
        arch=arch,
        phases=made,
        parallel=parallel,
        train_split=train_split,
        eval_split=eval_split,
        augment=augment(config.data),
        card=model_card,
        config=cli.to_plain(config),
        seed=config.seed,
        every=Every(
            log=config.log.every_steps,
            evaluate=config.eval.every_steps,
            save=config.checkpoint.every_steps,
        ),
        max_steps=config.max_steps,
        max_skipped=config.max_skipped,
        ema=config.ema_decay > 0,
        num_workers=config.data.num_workers,
        prefetch=config.data.prefetch,
        eval_batch_size=config.eval.batch_size,
        num_pictures=config.eval.num_pictures,
        keep_last=config.checkpoint.keep_last,
        keep_best=config.checkpoint.keep_best,
        tensorboard=config.log.tensorboard,
        pretrained=config.model.pretrained,
        notes=notes,
    )


def _unseen(arch: Arch, run: Sequence[Phase], split: datasets.Split) -> tuple[str, ...]:
    """A line where crops are so small that taps of kernels never see an image, and images of the split are larger."""
    if not len(split):
        return ()
    largest, answered = run[-1].plan.size_px, tuple(map(int, split.sizes_px.max(0)))
    names = unseen_taps.unseen(zoo.blocks(arch), largest, answered)
    if not names:
        return ()
    shown = ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
    (high, wide), (tall, broad) = largest, answered
    return (
        f"note: on crops of {high}x{wide} px the outer taps of {shown} see padding only and stay untrained, but images "
        f"of {split.name} ({tall}x{broad} px) use them; larger crops mend it (data.height_px, data.width_px)",
    )


def architecture(config: ConfigDict, spec: datasets.DatasetSpec) -> Arch:
    """The network that `config.model` names, for the data set's classes."""
    weights = config.loss.class_weights
    if weights and len(weights) != len(spec.class_names):
        raise UserError(
            "loss.class_weights",
            got=f"{len(weights)} numbers",
            expected=f"{len(spec.class_names)}, one per class of {spec.name}",
            do="see `python -m jaxseg.data stats`",
        )
    options = {k: v for k, v in config.model.items() if k not in ("name", "pretrained")}
    if config.model.name == "itnet":
        options |= {k: config.itnet[k] for k in LOOP_OPTIONS}
    if config.model.name == "gas":
        options |= sections.gas_options(config.gas)
    elif config.gas.search.steps or config.gas.genotype:
        raise UserError(
            "gas.search, gas.genotype", got=config.model.name, expected="model.name=gas"
        )
    arch = zoo.named(config.model.name, len(spec.class_names), **options)
    changed = [name for name, bits in config.integer.widths.items() if bits != -1]
    if not config.integer.preset and (changed or config.integer.layers):
        raise UserError(
            "integer.widths and integer.layers",
            got=", ".join([*changed, *config.integer.layers]),
            expected="a preset that they change",
            do=f"give --config.integer.preset={'|'.join(integer.PRESETS)}",
        )
    if config.integer.preset:
        ends = zip(config.data.mean, config.data.std, strict=True)
        reach = max(max(mean, 1 - mean) / std for mean, std in ends)
        arch = integer.architecture(
            arch, sections.integer_settings(config.integer), image_reach=reach
        )
    bits = sections.few_bits(config.bfcn).stages[0]
    return arch if bits.off else bfcn.architecture(arch, bits)


def phases(
    config: ConfigDict, arch: Arch, num_examples: int, q: Sequence[float] = ()
) -> tuple[Phase, ...]:
    """The run as a list of phases, in the order of `config.phases.order`.

    Args:
        config: complete. arch: of the network. num_examples: to train on.
        q: their ranks by complexity, for data slimming; empty = not known yet.
    """
    named = {k: v for k, v in config.phases.items() if k != "order"}
    order = tuple(config.phases.order)
    if not order or len(set(order)) != len(order):
        raise UserError("phases.order", got=order, expected="each phase once, at least one")
    for name in order:
        if name not in named:
            raise unknown_name("phase in phases.order", name, named)
    make_step = functools.partial(
        steps.supervised,
        loss=sections.loss(config.loss),
        mean=tuple(config.data.mean),
        std=tuple(config.data.std),
        ema_decay=config.ema_decay,
        accumulate=config.accumulate,
    )
    names = [block.name for block in zoo.blocks(arch)]
    result = []
    for i, name in enumerate(order):
        settings = named[name]
        trainable = tuple(settings.trainable)
        steps.partition.frozen_names(names, trainable)
        phase = Phase(
            name=name,
            steps=settings.steps,
            make_step=make_step,
            plan=TrainPlan(
                num_examples,
                config.data.batch_size,
                # Another phase is another shuffling; the first has the run's own seed.
                seed=config.seed + 1_000_003 * i,
                size_px=(config.data.height_px, config.data.width_px),
            ),
            optim=Optim(**sections.plain(settings.optim)),
            trainable=trainable,
        )
        steps.learning_rate(phase.optim, phase.steps)
        result.append(phase)
    return sections.methods(config, arch, tuple(result), q)


def augment(data: ConfigDict) -> Augment:
    """The host transform of training images."""
    return Augment(**sections.plain(data.augment), fill=tuple(round(255 * m) for m in data.mean))


def card(config: ConfigDict, spec: datasets.DatasetSpec, name: str) -> Card:
    """What the trained model will say of itself."""
    plain = cli.to_plain(config)
    return Card(
        class_names=spec.class_names,
        class_colors=spec.class_colors,
        mean=tuple(config.data.mean),
        std=tuple(config.data.std),
        data=plain["data"],
        evaluation=plain["eval"],
        origin={"config": name, "seed": config.seed, **runtime.provenance()},
    )


def open_split(data: ConfigDict, split: str) -> datasets.Split:
    """A split of the data set that the section `data` names; prepared on first use.

    Raises:
        UserError: the set has no such split (said before anything is prepared).
    """
    return datasets.open_split(
        data.name,
        split,
        dir=data.dir,
        cache_dir=data.cache_dir,
        decoded_cache=data.decoded_cache,
    )


def evaluation_config(card: Card, argv: Sequence[str]) -> ConfigDict:
    """The sections `data` and `eval` that a model was trained with, with overrides applied.

    Raises:
        UserError: a value of another type than the setting's, or out of its range: a card may come from anybody.
    """
    usual = defaults.get_config()
    # Compiled programs are run from there, so a folder that came from elsewhere does not say where.
    data = {**card.data, "cache_dir": usual.data.cache_dir}
    given = {"data": data, "eval": card.evaluation}
    settings = {k: _laid_over(cli.to_plain(usual)[k], given[k], f"the model's {k}") for k in given}
    config = cli.from_plain(settings)
    only = "after training only data.* and eval.* can be overridden"
    config = cli.override(config, argv, only=only)
    ranges.check_given(cli.flat_keys(config))
    answer_mode(config.eval)
    exit_way(config.eval)
    return config


def _laid_over(usual: dict[str, Any], given: dict[str, Any], where: str) -> dict[str, Any]:
    """`usual` with the values of `given`, which must be of the same types.

    A model may be older than a setting, which then has its default, or than its removal, and then it is left out.
    """
    made = dict(usual)
    for key, like in usual.items():
        if key not in given:
            continue
        value = given[key]
        if isinstance(like, dict) and isinstance(value, dict):
            made[key] = _laid_over(like, value, f"{where}.{key}")
        elif _is_like(value, like):
            made[key] = value
        else:
            expected = f"a value such as {like!r}"
            raise UserError(f"{where}.{key}", got=short(value), expected=expected)
    return made


def _is_like(value: Any, like: Any) -> bool:
    """Whether a JSON value has the type of another; of lists, that of the first item, or a number."""
    if isinstance(like, list):
        item = like[0] if like else 0.0
        return isinstance(value, list) and all(_is_like(x, item) for x in value)
    if type(like) is float and type(value) is int:
        return abs(value) < 2**63
    return type(value) is type(like) and not isinstance(like, dict)


def answer_mode(settings: ConfigDict) -> Mode:
    """How images are answered, from the section `eval`; with what belongs to it checked.

    Raises:
        UserError: a value that cannot be.
    """
    if not 0 < settings.boundary_tolerance_frac < 1:
        raise UserError(
            "eval.boundary_tolerance_frac",
            got=settings.boundary_tolerance_frac,
            expected="a number in (0, 1), in diagonals of the image",
        )
    return Mode(
        window_px=settings.window_px,
        window_overlap_frac=settings.window_overlap_frac,
        flip=settings.flip,
        scales=settings.scales,
    )


def exit_way(settings: ConfigDict, mode: str = "") -> Way:
    """How a multi-exit network answers, from the section `eval`; `mode`, if given, comes before its own.

    Raises:
        UserError: a value that cannot be.
    """
    section = settings.exits
    policy = Policy(section.confidence, section.measure, section.smooth)
    return Way(
        mode or section.mode,
        section.chosen,
        policy,
        section.pixel,
        section.image,
        section.deadline_ms,
    )


def evaluation_split(config: ConfigDict, card: Card, split: str) -> tuple[datasets.Split, EvalPlan]:
    """The split to evaluate on and its batches.

    Raises:
        UserError: its classes are not the model's.
    """
    opened = open_split(config.data, split)
    if opened.spec.class_names != card.class_names:
        raise UserError(
            f"data set {config.data.name} does not have the model's classes",
            got=", ".join(opened.spec.class_names),
            expected=", ".join(card.class_names),
        )
    return opened, EvalPlan(opened.sizes_px, config.eval.batch_size)


def cache_folder(config: ConfigDict) -> Path:
    """Where prepared data and compiled programs are kept."""
    return datasets.cache_root(config.data.cache_dir)
