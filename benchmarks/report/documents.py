"""Which table goes where. A document says so: `<!-- table: NAME -->` and `<!-- end -->` on lines of their own."""

import re
from collections.abc import Callable
from functools import partial
from pathlib import Path

from benchmarks.report import bfcn, dance, faults, gas, int8, integer, itnet, mess, speed, together
from benchmarks.report.markdown import Record, load

NAMES = (
    "README.md",
    "docs/reliability.md",
    "docs/methods/bfcn.md",
    "docs/methods/dance.md",
    "docs/methods/gas.md",
    "docs/methods/mess.md",
    "docs/methods/itnet.md",
    "docs/methods/integer.md",
    "docs/together.md",
)
PLACE = re.compile(r"(<!-- table: (\w+) -->\n)(.*?)(<!-- end -->)", re.DOTALL)

TABLES: dict[str, tuple[str, Callable[[Record], str]]] = {
    "chaos": ("chaos", faults.chaos),
    "soak": ("soak", faults.soak),
    "mess_stages": ("mess_stages", mess.mess_stages),
    "mess_losses": ("mess_losses", mess.mess_losses),
    "mess": ("mess", partial(mess.gain, arm="gain")),
    "mess_sum": ("mess", partial(mess.gain, arm="sum_gain")),
    "mess_deep": ("mess", partial(mess.gain, arm="deep_sum_gain")),
    "mess_ways": ("mess_ways", mess.mess_ways),
    "mess_cores": ("mess_ways", mess.mess_cores),
    "scan_blocks": ("scan_blocks", mess.scan_blocks),
    "itnet": ("itnet", itnet.arms),
    "itnet_passes": ("itnet", itnet.passes),
    "itnet_stopping": ("itnet", itnet.stopping),
    "itnet_scan": ("itnet_scan", itnet.scan),
    "itnet_camvid": ("itnet_camvid", itnet.camvid),
    "integer": ("integer", integer.arms),
    "integer_step": ("integer_step", integer.steps),
    "int8_accuracy": ("int8_accuracy", int8.accuracy),
    "int8_camvid": ("int8_accuracy", int8.camvid),
    "int8_drives": ("int8_accuracy", int8.drives),
    "int8_speed": ("int8_speed", int8.speed),
    "int8_speed_one_core": ("int8_speed_cores_1", int8.speed),
    "dance": ("dance", dance.arms),
    "dance_groups": ("dance", dance.groups),
    "dance_claims": ("dance", dance.claims),
    "dance_times": ("dance_time", dance.times),
    "dance_settings": ("dance_settings", dance.settings),
    "bfcn": ("bfcn", bfcn.arms),
    "all_at_once": ("all_at_once", together.added),
    "all_at_once_without": ("all_at_once", together.left_out),
    "pareto": ("pareto", together.pareto),
    "gas": ("gas", gas.arms),
    "gas_differences": ("gas", gas.differences),
    "gas_betas": ("gas", gas.betas),
    "gas_table": ("gas_table", gas.foretold),
    "torch_peer": ("torch_peer", speed.torch_peer),
    "int8_litert": ("int8_litert", speed.int8_litert),
    "conv_gradient": ("conv_gradient", speed.conv_gradient),
    "input_share": ("input_share", speed.input_share),
}
"""Name in a document -> (record under results/, what writes the table)."""

PICTURES: dict[str, tuple[str, Callable[[Record, Path], None]]] = {
    "mess.png": ("mess", mess.draw),
    "itnet.png": ("itnet", itnet.draw),
    "dance.png": ("dance", dance.draw),
    "gas.png": ("gas", gas.draw),
    "pareto.png": ("pareto", together.draw),
    "integer.png": ("integer", integer.draw),
}
"""Name under docs/images/ -> (record, what draws it)."""

NOT_MEASURED = "Not measured yet (`python -m benchmarks.run {}`).\n"
"""What stands in the place of a table whose record is missing."""


def filled(text: str, root: Path) -> str:
    """A document with all of its tables written anew, from `root`/results."""

    def write(found: re.Match[str]) -> str:
        record, make = TABLES[found[2]]
        body = make(load(record, root)) if has(record, root) else NOT_MEASURED.format(record)
        return found[1] + body + found[4]

    return PLACE.sub(write, text)


def draw_all(root: Path) -> None:
    """Every picture whose record is there, into `root`/docs/images."""
    folder = root / "docs" / "images"
    folder.mkdir(parents=True, exist_ok=True)
    for name, (record, draw) in PICTURES.items():
        if has(record, root):
            draw(load(record, root), folder / name)


def has(record: str, root: Path) -> bool:
    """Whether it was measured."""
    return (root / "results" / f"{record}.json").exists()
