"""From a raw set to its prepared copy: inspect every pair, write ArrayRecord, and decode once if asked to."""

import hashlib
import shutil
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import tensorflow_datasets as tfds

from jaxseg.data import pairs as pairing
from jaxseg.data import store, toy_street
from jaxseg.data.builders.base import FolderBuilder, PairBuilder
from jaxseg.data.builders.toy_street import ToyStreet, example_name
from jaxseg.data.pairs import Inspected, Problem, RawFolder
from jaxseg.data.progress import Tell, reporting
from jaxseg.data.spec import DatasetSpec
from jaxseg.data.split import Split
from jaxseg.errors import UserError

NUM_NAMED = 3
"""How many bad files the error of a preparation names; `python -m jaxseg.data check` names all."""

Columns = dict[str, list[Any]]


def prepare_raw(
    cache: Path, raw: RawFolder, builder: type[FolderBuilder], on_progress: Tell | None
) -> Path:
    """The prepared copy of a raw folder; its name is a fingerprint, so a changed folder is another copy.

    Raises:
        UserError: bad files, an empty split, or a full disk.
    """
    files = [file for pairs in raw.pairs.values() for p in pairs for file in (p.image, p.label)]
    files += [*(problem.file for problem in raw.problems), *raw.sources]
    facts = (builder.name, str(builder.VERSION), raw.spec.label_map.tobytes().hex())
    final = cache / "prepared" / builder.name / store.fingerprint(raw.root, files, *facts)

    def make(staging: Path) -> None:
        with reporting(on_progress, f"preparing {builder.name}") as tell:
            columns = _inspect_all(raw, tell)
            made = builder(root=raw.root, pairs=raw.pairs, data_dir=staging, tell=tell)
            _write(made, staging, columns)

    return store.make_once(final, make)


def prepare_toy_street(cache: Path, on_progress: Tell | None) -> Path:
    """The generated set, one copy per version of the set and of the code that draws it.

    Raises:
        UserError: a full disk.
    """
    drawing = hashlib.sha256(repr(toy_street.SPLITS).encode())
    for path in sorted(Path(toy_street.__file__).parent.glob("*.py")):
        drawing.update(path.read_bytes())
    version = f"{toy_street.VERSION}-{ToyStreet.VERSION}-{drawing.hexdigest()[:16]}"
    final = cache / "prepared" / ToyStreet.name / version

    def make(staging: Path) -> None:
        size = (toy_street.HEIGHT_PX, toy_street.WIDTH_PX)
        with reporting(on_progress, "generating toy_street") as tell:
            made = ToyStreet(data_dir=staging, tell=tell)
            columns = {
                split: _columns([example_name(split, i) for i in range(count)], [size] * count)
                for split, count in made.splits().items()
            }
            _write(made, staging, columns)

    return store.make_once(final, make)


class Inspection(NamedTuple):
    """What inspecting a raw set found: by stored split every pair, and `pairs.Verdict` on the whole."""

    found: dict[str, list[Inspected]]
    problems: list[Problem]
    notes: list[str]


def inspect_all(raw: RawFolder, tell: Tell) -> Inspection:
    """Inspects every pair of every split, two at a time (decoding runs outside Python's lock).

    Problems of the set come before those of single files.
    """
    problems: list[Problem] = []
    found: dict[str, list[Inspected]] = {}
    allowed = raw.spec.allowed
    with ThreadPoolExecutor(2) as threads:
        for split, pairs in raw.pairs.items():
            found[split] = []
            results = threads.map(lambda p: pairing.inspect(raw.root, p, allowed), pairs)
            for done, result in enumerate(results, 1):
                found[split].append(result)
                problems += result.problems
                tell(f"checking {split}", done, len(pairs))
    none = np.zeros(256, np.int64)
    values = {split: sum((x.values for x in results), none) for split, results in found.items()}
    judged, notes = raw.verdict(values)
    first = [*raw.problems, *judged]
    first += [Problem(s, "split without images") for s, pairs in raw.pairs.items() if not pairs]
    # An image in several splits is named once.
    return Inspection(found, list(dict.fromkeys([*first, *problems])), [*raw.notes, *notes])


def open_prepared(
    folder: Path,
    spec: DatasetSpec,
    stored_split: str,
    rows: np.ndarray | None,
    decoded_cache: bool,
    on_progress: Tell | None,
) -> Split:
    """A Split over a prepared copy, with its decoded cache made if it is asked for and not there."""
    decoded = None
    if decoded_cache:
        plain = Split(spec, folder, stored_split)
        decoded = folder / "decoded" / stored_split
        if not decoded.is_dir():
            _check_space(folder, plain)
        store.make_once(decoded, lambda staging: _decode_all(plain, staging, on_progress))
    return Split(spec, folder, stored_split, rows=rows, decoded=decoded)


def _inspect_all(raw: RawFolder, tell: Tell) -> dict[str, Columns]:
    found, problems, notes = inspect_all(raw, tell)
    if problems:
        shown = "; ".join(f"{p.file}: {p.what}" for p in problems[:NUM_NAMED])
        more = f"; and {len(problems) - NUM_NAMED} more" if len(problems) > NUM_NAMED else ""
        raise UserError(
            f"{len(problems)} problems in {raw.root}",
            got=shown + more,
            do="see all with `python -m jaxseg.data check` and the flags of this command that begin with --config",
        )
    for note in notes:
        print(f"{raw.spec.name}: {note}", file=sys.stderr)
    return {
        split: _columns([p.name for p in pairs], [x.size_px for x in found[split]])
        for split, pairs in raw.pairs.items()
    }


def _columns(names: list[str], sizes: list[tuple[int, int]]) -> Columns:
    heights, widths = zip(*sizes, strict=True)
    return {"name": names, "height_px": list(heights), "width_px": list(widths)}


def _write(builder: PairBuilder, staging: Path, columns: dict[str, Columns]) -> None:
    """Lets TFDS write its files under `staging`, then the index."""
    tfds.disable_progress_bar()
    scratch = staging / "downloads"
    builder.download_and_prepare(download_dir=str(scratch))
    shutil.rmtree(scratch, ignore_errors=True)
    store.write_index(staging, f"{builder.name}/{builder.version}", columns)


def _check_space(folder: Path, split: Split) -> None:
    needed = 4 * int(split.sizes_px.astype(np.int64).prod(axis=1).sum())
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise UserError(
            f"decoded cache of {split.name} in {folder}",
            got=f"{free / 1e9:.1f} GB free",
            expected=f"{needed / 1e9:.1f} GB",
            do="set data.decoded_cache=False or another data.cache_dir",
        )


def _decode_all(split: Split, staging: Path, on_progress: Tell | None) -> None:
    """Writes images.bin and labels.bin. A few rows ahead only, so memory does not grow with the split."""
    step = 16
    with (
        reporting(on_progress, f"decoding {split.spec.name}") as tell,
        ThreadPoolExecutor(2) as threads,
        open(staging / "images.bin", "wb") as image_file,
        open(staging / "labels.bin", "wb") as label_file,
    ):
        for start in range(0, len(split), step):
            rows = range(start, min(start + step, len(split)))
            for image, label in threads.map(split.decode, rows):
                image_file.write(image.tobytes())
                label_file.write(label.tobytes())
            tell(f"decoding {split.name}", rows.stop, len(split))
