"""`python -m jaxseg.data check`: names every raw file that training could not use, and never stops at the first."""

from dataclasses import dataclass, field

import numpy as np

from jaxseg.data import datasets, preparation
from jaxseg.data.pairs import Problem, RawFolder
from jaxseg.data.progress import Tell, reporting
from jaxseg.errors import one_line
from jaxseg.types import IGNORE_LABEL


@dataclass(frozen=True)
class Report:
    """What a check found.

    name, dir:   of the data set.
    class_names: K names.
    problems:    one line each; a file may have several. Empty: the set can be prepared.
    notes:       one line each; worth knowing, and in nobody's way.
    num_images:  split -> pairs of image and label; empty if the set is generated.
    sizes_px:    the (height, width) that occur, with how many images have them.
    num_pixels:  int64 [K + 1], pixels by class over all splits, the ignored last.
    wrong:       label values that must not occur -> their pixels over all splits.
    """

    name: str
    dir: str
    class_names: tuple[str, ...]
    problems: list[Problem]
    notes: list[str]
    num_images: dict[str, int]
    sizes_px: dict[tuple[int, int], int]
    num_pixels: np.ndarray
    wrong: dict[int, int] = field(default_factory=dict)


def check(name: str, dir: str = "", *, on_progress: Tell | None = None) -> Report:
    """Reads and decodes every file of a raw data set, two at a time; memory does not grow with the set.

    The set can be prepared exactly if this finds no problem: preparation makes the same inspection.

    Args:
        name: of the data set. dir: its raw folder.
        on_progress: (what, done, total); None shows it on stderr.

    Raises:
        UserError: unknown name, or the folder has not the set's layout at all.
    """
    raw = datasets.raw_folder(name, dir)
    if raw is None:
        names = datasets.describe(name).class_names
        return Report(name, "", names, [], [], {}, {}, np.zeros(len(names) + 1, np.int64))
    with reporting(on_progress, f"checking {name}") as tell:
        found, problems, notes = preparation.inspect_all(raw, tell)
    sizes: dict[tuple[int, int], int] = {}
    values = np.zeros(256, np.int64)
    for results in found.values():
        for result in results:
            sizes[result.size_px] = sizes.get(result.size_px, 0) + 1
            values += result.values
    sizes.pop((0, 0), None)
    names, pixels = raw.spec.class_names, _by_class(raw, values)
    wrong = {int(v): int(values[v]) for v in np.flatnonzero(np.where(raw.spec.allowed, 0, values))}
    return Report(name, str(dir), names, problems, notes, raw.num_images, sizes, pixels, wrong)


def render(report: Report) -> str:
    """The report as text: problems and notes one a line, then a summary."""
    if not report.num_images:
        return f"{report.name} is generated: there are no files to check"
    # Names of files may hold anything; a terminal obeys some of it.
    lines = [one_line(f"{problem.file}: {problem.what}") for problem in report.problems]
    lines += [one_line(f"note: {note}") for note in report.notes]
    counts = ", ".join(f"{split} {count}" for split, count in report.num_images.items())
    lines.append(f"{report.name} in {report.dir}: {counts} images with labels")
    most = sorted(report.sizes_px.items(), key=lambda item: -item[1])
    shown = ", ".join(f"{w}x{h} ({count})" for (h, w), count in most[:5])
    lines.append(f"sizes in px: {shown}" + (f", {len(most) - 5} more" if len(most) > 5 else ""))
    total = max(int(report.num_pixels.sum()) + sum(report.wrong.values()), 1)
    names = (*report.class_names, "ignored")
    wide = max(len(name) for name in names)
    for name, count in zip(names, report.num_pixels.tolist(), strict=True):
        absent = "" if count or name == "ignored" else "  never occurs"
        lines.append(f"  {name:<{wide}} {100 * count / total:7.3f} % of pixels{absent}")
    if report.wrong:
        most = sorted(report.wrong.items(), key=lambda item: -item[1])
        shown = ", ".join(f"{v} ({100 * count / total:.3f} %)" for v, count in most[:5])
        more = f" and {len(most) - 5} more" if len(most) > 5 else ""
        lines.append(
            f"values that are no class: {shown}{more}; make them {IGNORE_LABEL} to have them ignored, "
            "or give them a class"
        )
    files = len({problem.file for problem in report.problems})
    bad = f"{len(report.problems)} problems in {files} files" if files else "no problems"
    return "\n".join([*lines, bad])


def _by_class(raw: RawFolder, values: np.ndarray) -> np.ndarray:
    """Raw values int64 [256] -> classes int64 [K + 1]; values that must not occur are left out."""
    num_classes = raw.spec.num_classes
    counts = np.zeros(num_classes + 1, np.int64)
    for value in np.flatnonzero(raw.spec.allowed):
        target = int(raw.spec.label_map[value])
        counts[num_classes if target == IGNORE_LABEL else target] += values[value]
    return counts
