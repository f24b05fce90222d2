"""MESS's two stages on toy_street: what the exits are worth, trained in the paper's ways (its table 5).

Every arm is the evidence network for STEPS steps; 'frozen' arms add one plain FCN head behind each exit point to an
arm before, and train it for HEAD_STEPS steps. On 2 CPU cores: 2 to 3 minutes for a network, 1 to 2 for heads.
"""

from pathlib import Path
from typing import Any

from benchmarks import common

CLAIM = (
    "Table 5 of MESS on toy_street: heads on a backbone that was trained for exits (round-robin) are better than heads "
    "on the plain backbone and than all exits trained at once; its final answer is not worse than theirs."
)
SEEDS = (0, 1, 2)
STEPS, HEAD_STEPS = 600, 120
CONFIG = "mess_toy_street"
HEADS = (
    "--config.mess.heads.reductions=(1,)",
    "--config.mess.heads.extra_blocks=(0,)",
    f"--config.mess.stage_2.steps={HEAD_STEPS}",
)
"""One representative head behind each exit point: the plain FCN head."""


def network(workdir: Path, seed: int, form: str) -> Path:
    """Trains the network alone (form '') or with its exits, and returns its folder."""
    form_of = [f"--config.mess.stage_1={form}"] if form else ["--config.mess.num_exits=0"]
    common.trained(
        CONFIG,
        workdir,
        f"--config.seed={seed}",
        f"--config.phases.main.steps={STEPS}",
        f"--config.max_steps={STEPS}",
        *form_of,
    )
    return workdir


def heads(workdir: Path, seed: int, trained: Path, *overrides: str) -> Path:
    """Adds heads to a trained network, and returns their folder."""
    common.trained(
        CONFIG,
        workdir,
        f"--config.seed={seed}",
        "--config.mess.stage_1=skip",
        f"--config.model.pretrained={trained / 'model'}",
        *overrides,
    )
    return workdir


def scores(workdir: Path) -> dict[str, Any]:
    """Test mIoU of every exit and of the final answer, from the last checkpoint."""
    found = common.scored(workdir, "test", "--mode=anytime")
    run = common.trained_record(workdir)
    return {
        "miou": {row["name"]: row["miou"] for row in found["exits"]},
        "steps": run["step"],
        "train_macs": run["train_macs"],
        "train_wall_s": run["wall_s"],
        "state_digest": run["state_digest"],
        "commit": run["commit"],
    }


def _beside(workdir: Path, arm: str) -> Path:
    return workdir.parent.parent / arm / workdir.name


def plain(seed: int, workdir: Path, data: str) -> dict[str, Any]:
    """(i): the network without exits."""
    run = common.trained_record(network(workdir, seed, ""))
    return common.summary(run, {"test": common.scored(workdir, "test")})


def all_at_once(seed: int, workdir: Path, data: str) -> dict[str, Any]:
    """(ii): all exits and the final answer, one sum of cross-entropies."""
    return scores(network(workdir, seed, "sum"))


def round_robin(seed: int, workdir: Path, data: str) -> dict[str, Any]:
    """(iii): stage 1, one exit per step."""
    return scores(network(workdir, seed, "round_robin"))


def frozen_plain(seed: int, workdir: Path, data: str) -> dict[str, Any]:
    """(iv): heads on the frozen network (i)."""
    return scores(heads(workdir, seed, network(_beside(workdir, "plain"), seed, ""), *HEADS))


def frozen_round_robin(seed: int, workdir: Path, data: str) -> dict[str, Any]:
    """(v): heads on the frozen network (iii)."""
    before = network(_beside(workdir, "round_robin"), seed, "round_robin")
    return scores(heads(workdir, seed, before, *HEADS))


def frozen_all_at_once(seed: int, workdir: Path, data: str) -> dict[str, Any]:
    """Ours: fresh heads on the frozen network (ii)."""
    before = network(_beside(workdir, "all_at_once"), seed, "sum")
    return scores(heads(workdir, seed, before, *HEADS))


def going_on(seed: int, workdir: Path, data: str) -> dict[str, Any]:
    """Ours: the exits of (ii) go on as the heads on it."""
    common.trained(
        CONFIG,
        workdir,
        f"--config.seed={seed}",
        f"--config.phases.main.steps={STEPS}",
        "--config.mess.stage_1=sum",
        "--config.mess.heads.go_on=True",
        *HEADS,
    )
    return scores(workdir)


ARMS = {
    "plain": plain,
    "all_at_once": all_at_once,
    "round_robin": round_robin,
    "frozen_plain": frozen_plain,
    "frozen_round_robin": frozen_round_robin,
    "frozen_all_at_once": frozen_all_at_once,
    "going_on": going_on,
}
