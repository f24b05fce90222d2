"""Everything a run needs, as plain values: what `build.py` makes and `run.py` carries out."""

from dataclasses import dataclass
from typing import Any

from jaxseg.arch import Arch
from jaxseg.data.datasets import Split
from jaxseg.data.transforms import Augment
from jaxseg.inference.artifact import Card
from jaxseg.training.loop import Every
from jaxseg.training.parallel import Parallel
from jaxseg.training.phases import Phase


@dataclass(frozen=True)
class Plan:
    """A run, before it starts.

    arch:    of the first phase. phases: the whole run.
    train_split, eval_split: data. augment: host transform of training images.
    card:    what the deployed model says of itself.
    config:  plain JSON values, for config.json and run.json.
    pretrained: what a fresh run starts from (see `weights.pretrained.find`); '' = random weights.
    notes:   lines about the run to tell at its start.
    """

    arch: Arch
    phases: tuple[Phase, ...]
    parallel: Parallel
    train_split: Split
    eval_split: Split
    augment: Augment
    card: Card
    config: dict[str, Any]
    seed: int
    every: Every
    max_steps: int = 0
    max_skipped: int = 10
    ema: bool = False
    num_workers: int = 0
    prefetch: int = 4
    eval_batch_size: int = 8
    num_pictures: int = 4
    keep_last: int = 2
    keep_best: int = 1
    tensorboard: bool = True
    pretrained: str = ""
    notes: tuple[str, ...] = ()
