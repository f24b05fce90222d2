"""An int8 network beside the float one before it: time and quality of every operation, as rows and as text."""

from collections.abc import Mapping, Sequence
from typing import Any

from jaxseg.arch import BlockSpec
from jaxseg.conversion.steps import Value
from jaxseg.inference.layer_quality import Quality
from jaxseg.inference.layer_times import ELSEWHERE, LayerTime

NOTHING = Quality(None, None, None, None)
"""Of what is no operation: time of a block that belongs to none of its layers."""


COLUMNS = {
    "ms": ("int8 ms", ".3f"),
    "float_ms": ("float ms", ".3f"),
    "weight_bits": ("weights", "d"),
    "result_bits": ("result", "d"),
    "saturated": ("saturated", ".2%"),
    "snr_db": ("SNR dB", ".1f"),
}
"""Of the table: key of a row -> (what is above it, format)."""


def joined(
    blocks: Sequence[BlockSpec],
    times: Sequence[LayerTime],
    float_times: Sequence[LayerTime],
    found: Mapping[Value, Quality],
) -> list[dict[str, Any]]:
    """Rows in the order of the network: the fields of `LayerTime`, 'float_ms', and the fields of `Quality`.

    Convolutions have times of their own, what else a block does has the row '-' together: 'ms' and 'float_ms' of those
    operations are None, as are those of heads that the answer does not need.

    Args:
        blocks: of the int8 network.
        times, float_times: of both networks, see `layer_times`.
        found: of every operation.
    """
    ours, theirs = ({(row.block, row.layer): row for row in rows} for rows in (times, float_times))
    places = [
        (block.name, op) for block in blocks for op in (*(op.name for op in block.ops), ELSEWHERE)
    ]
    places += [place for place in {**ours, **theirs} if place not in places]
    made = []
    for place in places:
        timed = place in ours or place in theirs
        if not timed and place not in found:
            continue
        none = LayerTime(*place, 0, 0, 0.0 if timed else None)
        other = theirs.get(place, none).ms
        quality = found.get(place, NOTHING)._asdict()
        made.append({**ours.get(place, none)._asdict(), "float_ms": other, **quality})
    return made


def quality_table(rows: Sequence[Mapping[str, Any]]) -> str:
    """One line per row of `joined`; empty where there is nothing to say."""
    lines = [
        "beside the float32 network; bits of weights and results:",
        f"{'block':<10} {'operation':<16}" + "".join(f" {name:>9}" for name, _ in COLUMNS.values()),
    ]
    for row in rows:
        values = (
            "" if row[key] is None else f"{row[key]:{form}}" for key, (_, form) in COLUMNS.items()
        )
        line = f"{row['block']:<10} {row['layer']:<16}" + "".join(f" {v:>9}" for v in values)
        lines.append(line.rstrip())
    return "\n".join(lines)
