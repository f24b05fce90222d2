"""From a config to what methods and losses are made from; `build` puts the run together."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from jaxseg import runtime
from jaxseg.arch import Arch, from_json
from jaxseg.data import dance as data_slimming
from jaxseg.errors import UserError
from jaxseg.inference import edge_times
from jaxseg.inference.artifact import ARCH
from jaxseg.methods import bfcn, dance, dance_data, gas, integer, itnet, mess
from jaxseg.models.backbones.gas import genotype_of
from jaxseg.models.gas import check_guide, is_supernet
from jaxseg.models.itnet import is_looped
from jaxseg.models.mess import space
from jaxseg.numbers import FLOAT, BitsArch
from jaxseg.outside import MAX_JSON_BYTES, read_file
from jaxseg.training import steps
from jaxseg.training.optim import Optim
from jaxseg.training.phases import Phase


def methods(
    config: ConfigDict, arch: Arch, run: tuple[Phase, ...], q: Sequence[float] = ()
) -> tuple[Phase, ...]:
    """The run with what each method adds, in the one order that there is: gas, mess, dance, integer."""
    if is_supernet(arch):
        return gas_search(config, arch, run)
    if is_looped(arch):
        if config.mess.num_exits:
            raise UserError(
                "mess.num_exits",
                got=config.mess.num_exits,
                expected="0: itnet has exits of its own",
            )
        settings = itnet.Settings(config.itnet.exits, config.itnet.exit_weights)
        run = itnet.deep_supervision(run, arch, settings)
    if config.mess.num_exits:
        settings = mess_settings(config)
        settings.places(arch, run[-1].plan.size_px)  # a block that does not exist is said now
        run = mess.multi_exit(run, settings, loss(config.loss))
    slimming = data_slimming.configured(**config.dance.data)
    if slimming:
        run = dance_data.slimmed(run, arch, slimming, q)
    run = dance.slimmed(run, arch, network_slimming(config.dance.network, slimming, q))
    if config.integer.preset:
        run = integer.rounded(run, arch, integer_settings(config.integer))
    if config.bfcn.ladder:
        changed = config.mess.num_exits or config.dance.network.share or slimming
        if changed or is_looped(arch):
            raise UserError(
                "bfcn.ladder beside mess, dance or itnet",
                got=config.bfcn.ladder,
                expected="(): trained directly at so many bits",
            )
        run = bfcn.decayed(run, few_bits(config.bfcn))
    return run


def few_bits(section: ConfigDict) -> bfcn.Settings:
    """The section `bfcn`; the ends are floating where all is."""
    floating = section.weights == section.activations == FLOAT
    ends = FLOAT if floating else section.ends
    bits = BitsArch(section.weights, section.activations, ends, section.reach)
    return bfcn.Settings(bits, tuple(section.ladder), section.stage)


def gas_search(config: ConfigDict, arch: Arch, run: tuple[Phase, ...]) -> tuple[Phase, ...]:
    """The run with a search before it.

    Raises:
        UserError: a value that cannot be, or another method: what they do depends on the network that is not known yet.
    """
    others = {
        "mess.num_exits": config.mess.num_exits,
        "dance.data.measure": config.dance.data.measure,
        "dance.network.share": config.dance.network.share,
        "dance.network.l1": config.dance.network.l1,
        "integer.preset": config.integer.preset,
        "bfcn.weights and bfcn.activations": not few_bits(config.bfcn).bits.off,
    }
    for key, value in others.items():
        if value:
            raise UserError(
                f"{key} beside gas.search.steps",
                got=repr(value),
                expected="one after the other: what is found is not known yet",
                do="search first, then give --config.gas.genotype=FOLDER and gas.search.steps=0",
            )
    section = config.gas
    if len(section.temperatures) != 2:
        raise UserError("gas.temperatures", got=section.temperatures, expected="first and last")
    optims = [Optim(**plain(part.optim)) for part in (section.search, section.alphas)]
    for optim in optims:
        steps.learning_rate(optim, section.search.steps)
    if len(section.crop_px) != 2:
        raise UserError("gas.crop_px", got=section.crop_px, expected="height and width")
    batches = tuple(section.crop_px), section.batch_size
    temperatures = section.temperatures
    settings = gas.Settings(section.search.steps, section.beta, *temperatures, *optims, *batches)
    if section.latency:
        told = runtime.provenance()
        here = None if section.any_device else {k: told[k] for k in ("device", "cpu")}
        table = edge_times.read_table(Path(section.latency), arch, here)
    else:
        table = edge_times.reckoned(arch, run[0].plan.size_px)
    return gas.searched(run, arch, settings, table, config.seed)


def gas_options(section: ConfigDict) -> dict[str, Any]:
    """What the network 'gas' is asked for: to be searched, or with cells of a folder, or with those by hand.

    Raises:
        UserError: no such folder, or another network in it.
    """
    check_guide(section.guide, section.sharing)
    if section.search.steps:
        if section.genotype:
            raise UserError(
                "gas.genotype beside gas.search.steps", got=section.genotype, expected="one of them"
            )
        own = {"guide": section.guide, "sharing": section.sharing}
        return {"cells": section.cells, "genotype": (), **own}
    if not section.genotype:
        return {"cells": section.cells}
    folder = Path(section.genotype)
    path = next((p for p in (folder / "model" / ARCH, folder / ARCH) if p.exists()), folder)
    try:
        found = genotype_of(from_json(read_file(path, max_bytes=MAX_JSON_BYTES)).backbone)
    except OSError as error:
        raise UserError(f"gas.genotype: cannot read {path}", got=error.strerror) from error
    if not found:
        raise UserError("gas.genotype", got=f"{path}, no network of cells", expected="a found one")
    return {"cells": len(found), "genotype": found}


def network_slimming(
    section: ConfigDict, data: data_slimming.DataSlimming | None, q: Sequence[float] = ()
) -> dance.Settings:
    """The section `dance.network`; with `tie` its share follows from how much the data are slimmed, where they are.

    Raises:
        UserError: a value that cannot be.
    """
    options = {k: v for k, v in section.items() if k != "tie"}
    settings = dance.Settings(**options)
    if not (section.tie and data and settings.share):
        return settings
    share = dance.coupled(settings.share, data.mean_square_ratio(q))
    return dance.Settings(**{**options, "share": share})


def integer_settings(section: ConfigDict) -> integer.Settings:
    """The section `integer`.

    Raises:
        UserError: a value that cannot be.
    """
    widths = {name: bits for name, bits in section.widths.items() if bits != -1}
    return integer.Settings(section.preset, widths, section.layers)


def mess_settings(config: ConfigDict) -> mess.Settings:
    """The section `mess`.

    Raises:
        UserError: a value that cannot be.
    """
    section = config.mess
    if section.normalise == mess.KEPT and config.accumulate > 1:
        raise UserError(
            "mess.normalise",
            got=section.normalise,
            expected="valid, or accumulate = 1: how many pixels are kept is known after the last micro-batch",
        )
    if section.stage_1 == mess.SKIP and not (config.model.pretrained or config.phases.order[1:]):
        raise UserError(
            "mess.stage_1",
            got=section.stage_1,
            expected="a trained network",
            do="name its folder, such as --config.model.pretrained=runs/quickstart/model",
        )
    heads = section.heads
    options = {k: v for k, v in plain(section).items() if k != "num_exits"}
    optim = Optim(**plain(section.stage_2.optim))
    steps.learning_rate(optim, section.stage_2.steps)
    return mess.Settings(
        num_exits=section.num_exits,
        designs=space(heads.reductions, heads.extra_blocks, heads.rapid_dilation, heads.kinds),
        go_on=heads.go_on,
        steps=section.stage_2.steps,
        optim=optim,
        width=config.model.width,
        dropout=config.model.dropout,
        **options,
    )


def loss(section: ConfigDict) -> steps.Loss:
    """What is minimised."""
    options = {
        f"{name}_{key}": value
        for name in ("ohem", "focal", "tversky")
        for key, value in section[name].items()
    }
    return steps.Loss(weights=section.weights.to_dict(), **plain(section), **options)


def plain(section: ConfigDict) -> dict[str, Any]:
    """The values of a section, without its subsections."""
    return {k: v for k, v in section.items() if not isinstance(v, ConfigDict)}
