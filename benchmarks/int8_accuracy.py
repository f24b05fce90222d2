"""What int8 costs in accuracy: calibrated, fine-tuned and trained for it, on toy_street and CamVid.

Every arm starts from a run of the quickstart's recipe on the evidence network (trained once per seed and kept), or of
integer_only. Ranges are chosen on calib, scores are on test, whole images.
"""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks import common, integer
from jaxseg import deploy

CLAIM = (
    "Quarter-width DeepLabV3+ on ResNet-18, toy_street, test mIoU: floats; int8 by calibration, with three ways to "
    "choose ranges; floats fine-tuned as integer_only for 200 steps, then int8 exactly; integer_only from scratch, "
    "then int8 exactly. Is int8 within 0.3 points of its own simulation, in which upsampling and arg-max float? "
    "CamVid's published model, calibrated; and on camvid_drives, a drive that no run has seen: half-width DeepLabV3+ "
    "on ResNet-18, trained as floats and calibrated, fine-tuned as integer_only, and integer_only from scratch."
)
SEEDS = (0, 1, 2)
METHODS = ("minmax", "percentile", "mse")
TUNE_STEPS = 200
TUNE_RATE = 2.0**-6
AIM = 0.003


def _float(seed: int, workdir: Path) -> Path:
    """The float run of a seed, shared by the arms."""
    folder = workdir.parent.parent / "float_run" / str(seed)
    common.trained(
        "integer_toy_street",
        folder,
        f"--config.seed={seed}",
        f"--config.phases.main.steps={integer.STEPS}",
        *(f"--config.{x}" for x in integer.ADAMW),
    )
    return folder


def _integer(seed: int, workdir: Path) -> Path:
    """The integer_only run of a seed."""
    folder = workdir.parent.parent / "integer_run" / str(seed)
    steps = f"--config.phases.main.steps={integer.STEPS}"
    common.trained("integer_toy_street", folder, f"--config.seed={seed}", steps)
    return folder


def _tuned(seed: int, workdir: Path) -> Path:
    """integer_only from the weights of the float run, for a few steps."""
    folder = workdir.parent.parent / "tuned_run" / str(seed)
    common.trained(
        "integer_toy_street",
        folder,
        f"--config.seed={seed}",
        f"--config.phases.main.steps={TUNE_STEPS}",
        f"--config.phases.main.optim.learning_rate={TUNE_RATE}",
        f"--config.model.pretrained={_float(seed, workdir)}",
    )
    return folder


def _int8(run: Path, workdir: Path, *flags: str) -> Path:
    folder = workdir / "int8"
    shutil.rmtree(folder, ignore_errors=True)
    deploy.main([f"--workdir={run}", f"--output={folder}", "--numbers=int8", *flags])
    return folder


def _row(folder: Path, trained: Path | None = None) -> dict[str, Any]:
    scores = common.scored(folder, "test")
    row = {
        "test_miou": scores["miou"],
        "test_loss": scores["loss"],
        "num_images": scores["num_images"],
    }
    row["bytes"] = (folder / "variables.safetensors").stat().st_size
    if trained is not None:
        row["trained_bytes"] = (trained / "model" / "variables.safetensors").stat().st_size
        row["trained_test_miou"] = common.scored(trained, "test")["miou"]
    return row


def floats(seed: int, workdir: Path, data: str) -> dict[str, Any]:
    """The float network itself."""
    run = _float(seed, workdir)
    return {"test_miou": common.scored(run, "test")["miou"]}


def calibrated(method: str) -> Callable[[int, Path, str], dict[str, Any]]:
    """int8 from floats."""

    def run(seed: int, workdir: Path, data: str) -> dict[str, Any]:
        trained = _float(seed, workdir)
        return _row(_int8(trained, workdir, f"--calibration={method}"), trained)

    return run


def tuned(seed: int, workdir: Path, data: str) -> dict[str, Any]:
    """int8 from floats that went on as integer_only; `trained_test_miou` is that of the simulation."""
    trained = _tuned(seed, workdir)
    return _row(_int8(trained, workdir), trained)


def trained_for_it(seed: int, workdir: Path, data: str) -> dict[str, Any]:
    """int8 from integer_only; `trained_test_miou` is that of the simulation."""
    trained = _integer(seed, workdir)
    return _row(_int8(trained, workdir), trained)


def camvid(seed: int, workdir: Path, data: str) -> dict[str, Any]:
    """The CamVid model under results/models, calibrated on frames of train, scored on val."""
    if seed:
        return {"skipped": "one model"}
    source = Path("results") / "models" / "camvid_deeplabv3plus_effnetlite0"
    where = f"--config.data.dir={data}"
    row: dict[str, Any] = {}
    for method in METHODS:
        folder = _int8(source, workdir / method, f"--calibration={method}", "--split=train", where)
        row[f"val_miou_{method}"] = common.scored(folder, "val", where)["miou"]
    row["val_miou_float"] = common.scored(_copy(source, workdir), "val", where)["miou"]
    row["bytes"] = (folder / "variables.safetensors").stat().st_size
    return row


DRIVES_STEPS = 450
DRIVES_TUNE_STEPS = 100
DRIVES = ("--config.data.name=camvid_drives", "--config.eval.split=test")


def _drives(workdir: Path, data: str, name: str, *overrides: str) -> Path:
    """A run of configs/integer_camvid.py on two drives, its rate that of `integer_only`; shared by the arms."""
    folder = workdir.parent.parent / f"drives_{name}"
    where = f"--config.data.dir={data}"
    common.trained("integer_camvid", folder, *DRIVES, where, *overrides)
    return folder


def _drives_float(workdir: Path, data: str) -> Path:
    steps = f"--config.phases.main.steps={DRIVES_STEPS}"
    recipe = (f"--config.{x}" for x in integer.ADAMW)
    return _drives(workdir, data, "float_run", steps, *recipe)


def _drives_row(run: Path, workdir: Path, data: str, *flags: str) -> dict[str, Any]:
    """Of int8 from a run, on the drive that no run has seen; `trained_test_miou` is of the run itself."""
    where = f"--config.data.dir={data}"
    folder = _int8(run, workdir, where, *flags)
    scores = common.scored(folder, "test", where)
    told = common.trained_record(run)
    return {
        "test_miou": scores["miou"],
        "num_images": scores["num_images"],
        "trained_test_miou": common.scored(run, "test", where)["miou"],
        "bytes": (folder / "variables.safetensors").stat().st_size,
        "trained_bytes": (run / "model" / "variables.safetensors").stat().st_size,
        "steps": told["step"],
        "train_wall_s": told["wall_s"],
    }


def drives(trained: Callable[[Path, str], Path]) -> Callable[[int, Path, str], dict[str, Any]]:
    """int8 from a run on camvid_drives, of one seed: a run is a quarter of an hour."""

    def run(seed: int, workdir: Path, data: str) -> dict[str, Any]:
        if seed:
            return {"skipped": "one seed"}
        return _drives_row(trained(workdir, data), workdir, data)

    return run


def _drives_tuned(workdir: Path, data: str) -> Path:
    """The float run, going on as integer_only."""
    return _drives(
        workdir,
        data,
        "tuned_run",
        f"--config.phases.main.steps={DRIVES_TUNE_STEPS}",
        f"--config.phases.main.optim.learning_rate={TUNE_RATE}",
        f"--config.model.pretrained={_drives_float(workdir, data)}",
    )


def _drives_integer(workdir: Path, data: str) -> Path:
    """integer_only from scratch."""
    return _drives(workdir, data, "integer_run", f"--config.phases.main.steps={DRIVES_STEPS}")


def _copy(source: Path, workdir: Path) -> Path:
    """Scores are written into a folder; that of the repository stays as it is."""
    folder = workdir / "float"
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(source, folder)
    return folder


ARMS = {
    "float": floats,
    **{f"calibrated_{method}": calibrated(method) for method in METHODS},
    "fine_tuned": tuned,
    "integer_only": trained_for_it,
    "camvid": camvid,
    "drives_calibrated": drives(_drives_float),
    "drives_fine_tuned": drives(_drives_tuned),
    "drives_integer_only": drives(_drives_integer),
}
