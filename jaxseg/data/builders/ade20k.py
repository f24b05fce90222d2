"""ADE20K as published for the scene parsing challenge 2016 (Zhou et al., CVPR 2017): 150 classes.

`images/{training,validation}/*.jpg` and `annotations/{training,validation}/*.png` in ADEChallengeData2016; our
splits are called train and val. Two numberings of the labels go around, and a mistake between them would shift every
class by one without a word, so each has a name of its own:
    ade20k:         as published: 1..150 are the classes, 0 is everything else and is ignored.
    ade20k_shifted: 0..149 are the classes, 255 is ignored (what "reduce zero label" makes).
150 occurs in the first only, 255 in the second only, so `check` and `prepare` refuse what has the other's. Labels
with neither could be both: as `ade20k` they are taken for the published ones, and it is said; as `ade20k_shifted`
they are refused. If the challenge's objectInfo150.txt lies beside the images, it must agree with our names.
The full release with its thousands of classes is another set and is not read.

Get it from sceneparsing.csail.mit.edu; its terms allow non-commercial research and education.
"""

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import tensorflow_datasets as tfds

from jaxseg.data.builders.base import FolderBuilder
from jaxseg.data.pairs import Pair, Problem, RawFolder, Verdict, match, other_counts
from jaxseg.data.spec import NOT_ALLOWED, DatasetSpec, identity_map
from jaxseg.errors import UserError
from jaxseg.outside import MAX_TEXT_BYTES, read_file
from jaxseg.types import IGNORE_LABEL

FOLDERS = {"train": "training", "val": "validation"}
PUBLISHED = {"train": 20210, "val": 2000}
UNAVAILABLE = {"test": "its labels are not public"}
INFO = "objectInfo150.txt"
LAST = 150
"""As a label value: the last class of the published numbering, nothing in the other."""
LAYOUT = "ADEChallengeData2016 with images/training/ and annotations/training/ (and validation/)"

# In order of class: name and colour, as the challenge gives them.
TABLE = """
wall 787878; building b47878; sky 06e6e6; floor 503232; tree 04c803; ceiling 787850; road 8c8c8c; bed cc05ff;
windowpane e6e6e6; grass 04fa07; cabinet e005ff; sidewalk ebff07; person 96053d; earth 787846; door 08ff33;
table ff0652; mountain 8fff8c; plant ccff04; curtain ff3307; chair cc4603; car 0066c8; water 3de6fa;
painting ff0633; sofa 0b66ff; shelf ff0747; house ff09e0; sea 0907e6; mirror dcdcdc; rug ff095c; field 7009ff;
armchair 08ffd6; seat 07ffe0; fence ffb806; desk 0aff47; rock ff290a; wardrobe 07ffff; lamp e0ff08;
bathtub 6608ff; railing ff3d06; cushion ffc207; base ff7a08; box 00ff14; column ff0829; signboard ff0599;
chest of drawers 0633ff; counter eb0cff; sand a09614; sink 00a3ff; skyscraper 8c8c8c; fireplace fa0a0f;
refrigerator 14ff00; grandstand 1fff00; path ff1f00; stairs ffe000; runway 99ff00; case 0000ff;
pool table ff4700; pillow 00ebff; screen door 00adff; stairway 1f00ff; river 0bc8c8; bridge ff5200;
bookcase 00fff5; blind 003dff; coffee table 00ff70; toilet 00ff85; flower ff0000; book ffa300; hill ff6600;
bench c2ff00; countertop 008fff; stove 33ff00; palm 0052ff; kitchen island 00ff29; computer 00ffad;
swivel chair 0a00ff; boat adff00; bar 00ff99; arcade machine ff5c00; hovel ff00ff; bus ff00f5; towel ff0066;
light ffad00; truck ff0014; tower ffb8b8; chandelier 001fff; awning 00ff3d; streetlight 0047ff; booth ff00cc;
television receiver 00ffc2; airplane 00ff52; dirt track 000aff; apparel 0070ff; pole 3300ff; land 00c2ff;
bannister 007aff; escalator 00ffa3; ottoman ff9900; bottle 00ff0a; buffet ff7000; poster 8fff00; stage 5200ff;
van a3ff00; ship ffeb00; fountain 08b8aa; conveyer belt 8500ff; canopy 00ff5c; washer b800ff; plaything ff001f;
swimming pool 00b8ff; stool 00d6ff; barrel ff0070; basket 5cff00; waterfall 00e0ff; tent 70e0ff; bag 46b8a0;
minibike a300ff; cradle 9900ff; oven 47ff00; ball ff00a3; food ffcc00; step ff008f; tank 00ffeb;
trade name 85ff00; microwave ff00eb; pot f500ff; animal ff007a; bicycle fff500; lake 0abed4; dishwasher d6ff00;
screen 00ccff; blanket 1400ff; sculpture ffff00; hood 0099ff; sconce 0029ff; vase 00ffcc; traffic light 2900ff;
tray 29ff00; ashcan ad00ff; fan 00f5ff; pier 4700ff; crt screen 7a00ff; plate 00ffb8; monitor 005cff;
bulletin board b8ff00; shower 0085ff; radiator ffd600; glass 19c2c2; clock 66ff00; flag 5c00ff
"""
CLASSES = tuple(
    (row[:-7], (int(row[-6:-4], 16), int(row[-4:-2], 16), int(row[-2:], 16)))
    for row in (entry.strip() for entry in TABLE.replace("\n", " ").split(";"))
)


class Ade20k(FolderBuilder, skip_registration=True):
    """ADE20K, labels as published."""

    VERSION = tfds.core.Version("1.0.0")


class Ade20kShifted(FolderBuilder, skip_registration=True):
    """ADE20K, labels shifted by one."""

    VERSION = tfds.core.Version("1.0.0")


def published_spec(splits: tuple[str, ...] = tuple(FOLDERS)) -> DatasetSpec:
    """Classes, colours and label values of `ade20k`; `splits` are those present."""
    table = np.full(256, NOT_ALLOWED, np.uint8)
    table[0] = IGNORE_LABEL
    table[1 : len(CLASSES) + 1] = np.arange(len(CLASSES))
    return _spec("ade20k", splits, table)


def shifted_spec(splits: tuple[str, ...] = tuple(FOLDERS)) -> DatasetSpec:
    """Classes, colours and label values of `ade20k_shifted`; `splits` are those present."""
    return _spec("ade20k_shifted", splits, identity_map(len(CLASSES), IGNORE_LABEL))


def published_folder(dir: str | Path) -> RawFolder:
    """What of `ade20k` lies in `dir`; UserError if it is not the layout."""
    return _found(dir, published_spec, _verdict_published)


def shifted_folder(dir: str | Path) -> RawFolder:
    """What of `ade20k_shifted` lies in `dir`; UserError if it is not the layout."""
    return _found(dir, shifted_spec, _verdict_shifted)


def _spec(name: str, splits: tuple[str, ...], table: np.ndarray) -> DatasetSpec:
    names, colors = zip(*CLASSES, strict=True)
    return DatasetSpec(name, names, colors, splits, table, UNAVAILABLE)


def _found(
    dir: str | Path,
    spec: Callable[[tuple[str, ...]], DatasetSpec],
    verdict: Callable[[dict[str, np.ndarray]], Verdict],
) -> RawFolder:
    root = Path(dir)
    if dir and (root / "ADEChallengeData2016").is_dir():
        root = root / "ADEChallengeData2016"
    present = [
        split
        for split, folder in FOLDERS.items()
        if dir and any((root / kind / folder).is_dir() for kind in ("images", "annotations"))
    ]
    if not present:
        raise UserError("data.dir holds no ADE20K", got=repr(str(dir)), expected=LAYOUT)
    pairs: dict[str, list[Pair]] = {}
    problems: list[Problem] = []
    for split in present:
        folders = (f"images/{FOLDERS[split]}", f"annotations/{FOLDERS[split]}")
        for folder in folders:
            if not (root / folder).is_dir():
                raise UserError(f"{root} lacks {folder}/", expected=LAYOUT)
        pairs[split], lonely = match(root, *folders, by_stem=True)
        problems += lonely
    info = (INFO,) if (root / INFO).is_file() else ()
    if info:
        problems += _other_classes(root / INFO)
    raw = RawFolder(root, spec(tuple(present)), pairs, problems, sources=info, verdict=verdict)
    return replace(raw, notes=other_counts(raw, PUBLISHED))


def _verdict_published(values: dict[str, np.ndarray]) -> Verdict:
    problems, notes = [], []
    for split, counts in values.items():
        folder = f"annotations/{FOLDERS[split]}"
        if counts[LAST] and counts[IGNORE_LABEL]:
            problems.append(_mixed(folder))
        elif counts[IGNORE_LABEL]:
            what = (
                f"{IGNORE_LABEL} occurs and {LAST} does not: shifted; use data.name=ade20k_shifted"
            )
            problems.append(Problem(folder, what))
        elif counts.any() and not counts[LAST]:
            notes.append(
                f"{folder}: neither {LAST} nor {IGNORE_LABEL} occurs, so the numbering cannot be told; taken as "
                "published (1 is wall); if 0 is wall, use data.name=ade20k_shifted"
            )
    return problems, notes


def _verdict_shifted(values: dict[str, np.ndarray]) -> Verdict:
    problems = []
    for split, counts in values.items():
        folder = f"annotations/{FOLDERS[split]}"
        if counts[LAST] and counts[IGNORE_LABEL]:
            problems.append(_mixed(folder))
        elif counts.any() and not counts[IGNORE_LABEL]:
            what = f"{IGNORE_LABEL} (ignored) never occurs: not shifted; use data.name=ade20k"
            problems.append(Problem(folder, what))
    return problems, []


def _mixed(folder: str) -> Problem:
    what = f"{LAST} and {IGNORE_LABEL} both occur: published and shifted labels are mixed"
    return Problem(folder, what)


def _other_classes(path: Path) -> list[Problem]:
    """Where the challenge's table (number, shares, counts, synonyms) does not name our classes."""
    try:
        lines = read_file(path, max_bytes=MAX_TEXT_BYTES).decode("utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        return [Problem(INFO, f"cannot be read ({error})")]
    rows = [[word.strip() for word in re.split(r"[\t,;]", line)] for line in lines]
    named = {int(row[0]): row[1:] for row in rows if row[0].isdecimal() and len(row[0]) <= 9}
    if named.keys() != set(range(1, LAST + 1)):
        return [Problem(INFO, f"has {len(named)} classes, not those numbered 1 to {LAST}")]
    return [
        Problem(INFO, f"class {number} is {named[number][3:]}, not {name!r}")
        for number, (name, _) in enumerate(CLASSES, 1)
        if name not in named[number]
    ]
