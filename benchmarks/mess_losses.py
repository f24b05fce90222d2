"""What heads learn from: MESS's positive filtering distillation against its rivals (its table 6), on toy_street.

All arms of a seed add the same heads to the same frozen network, in the same batches; the networks are those of
`benchmarks.mess_stages`, trained here where they are missing. On 2 CPU cores: 1 to 2 minutes an arm.
"""

import functools
from pathlib import Path
from typing import Any

from benchmarks import mess_stages

CLAIM = (
    "Table 6 of MESS on toy_street: PFD against cross-entropy, distillation, and both, five seeds."
)
SEEDS = (0, 1, 2, 3, 4)


def arm(loss: str, seed: int, workdir: Path, data: str) -> dict[str, Any]:
    """One loss."""
    shared = workdir.parent.parent.parent / "mess_stages" / "round_robin" / workdir.name
    before = mess_stages.network(shared, seed, "round_robin")
    folder = mess_stages.heads(
        workdir, seed, before, *mess_stages.HEADS, f"--config.mess.loss={loss}"
    )
    return mess_stages.scores(folder)


ARMS = {loss: functools.partial(arm, loss) for loss in ("ce", "kd", "ce+kd", "pfd")}
