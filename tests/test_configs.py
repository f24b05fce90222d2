"""Every shipped config trains two steps, at a small size on made-up data, and lists what a record must."""

import re
from pathlib import Path

import pytest

from jaxseg import build, cli, defaults
from jaxseg.data import datasets
from jaxseg.training import run
from tests.fakes import FakeSplit

ROOT = Path(__file__).resolve().parent.parent
CONFIGS = sorted((ROOT / "configs").glob("*.py"))
SLOW_TO_COMPILE = (
    "dance_toy_street",
    "all_at_once",
    "camvid_deeplabv3plus_effnetlite0",
    "camvid_deeplabv3plus_resnet18",
    "integer_camvid",
    "integer_deeplabv3_resnet50_ade20k",
    "integer_deeplabv3_resnet50_voc2012",
    "integer_fcn8s_vgg16_ade20k",
    "integer_toy_street",
    "itnet_camvid",
    "gas_camvid",
    "gas_toy_street",
    "mess_camvid",
    "mess_toy_street",
)


def marked(path: Path):
    slow = [pytest.mark.slow] if path.stem in SLOW_TO_COMPILE else []
    return pytest.param(path, marks=slow, id=path.stem)


@pytest.mark.parametrize("path", [marked(path) for path in CONFIGS])
def test_every_config_trains(path, tmp_path, monkeypatch):
    config = cli.load_config(str(path))
    small = [
        "--config.max_steps=2",
        "--config.data.height_px=32",
        "--config.data.width_px=32",
        "--config.data.batch_size=2",
        "--config.eval.batch_size=2",
        "--config.model.width=0.125",
        "--config.model.pretrained=",  # of another width, and an extra
        "--config.log.every_steps=1",
        "--config.loss.class_weights=()",
    ]
    config = cli.override(config, small)
    monkeypatch.setattr(datasets, "describe", lambda name, dir: FakeSplit().spec)
    monkeypatch.setattr(
        build, "open_split", lambda data, split: FakeSplit(split, 4 if split == "val" else 6)
    )
    record = run.train(tmp_path, build.training_plan(config, name=path.stem))
    assert record["step"] == 2
    assert (tmp_path / "model" / "arch.json").exists()


@pytest.mark.parametrize("path", CONFIGS, ids=lambda p: p.stem)
def test_every_config_is_a_lab_record(path):
    text = path.read_text().split('"""')[1]
    for word in ("Command:", "Hardware:", "Time:", "mIoU:"):
        assert word in text, f"{path.name} does not state {word}"


@pytest.mark.parametrize("path", CONFIGS, ids=lambda p: p.stem)
def test_configs_name_known_sets_and_keys(path):
    config, known = cli.load_config(str(path)), cli.flat_keys(defaults.get_config())
    assert config.data.name in datasets.NAMES
    extra = [k for k in cli.flat_keys(config) if k not in known and not k.startswith("phases.")]
    assert not extra


def test_readme_names_only_what_exists():
    text = (ROOT / "README.md").read_text()
    for name in set(re.findall(r"configs/(\w+)\.py", text)) - {"X"}:
        assert (ROOT / "configs" / f"{name}.py").exists(), name
    for name in set(re.findall(r"python -m jaxseg\.(\w+)", text)):
        found = ROOT / "jaxseg" / f"{name}.py"
        assert found.exists() or (ROOT / "jaxseg" / name / "__main__.py").exists(), name
