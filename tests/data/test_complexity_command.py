"""`python -m jaxseg.data stats --complexity=...`: what it says, draws and refuses."""

from pathlib import Path

import cv2
import pytest

from jaxseg import cli
from jaxseg.data import __main__ as data
from tests.data import raw

CONFIG = f"--config={Path(__file__).parents[2] / 'configs/quickstart.py'}"


@pytest.fixture
def ask(tmp_path, capsys):
    root = raw.make_camvid(tmp_path / "raw", (("train", 5),))
    own = [f"--config.data.dir={root}", f"--config.data.cache_dir={tmp_path / 'cache'}"]

    def ask(*flags):
        argv = ["stats", CONFIG, "--config.data.name=camvid", *own, *map(str, flags)]
        return cli.run(data.main, argv), capsys.readouterr()

    return ask


def test_it_shows_a_histogram_groups_and_examples(ask, tmp_path):
    status, said = ask("--complexity=jpeg", f"--output={tmp_path / 'x.png'}")
    assert status == 0 and "camvid train: jpeg of 5 images, rank within_group" in said.out
    rows = [line.split() for line in said.out.splitlines()]
    assert [r[:2] for r in rows if r[:1] in (["0001TP"], ["all"])] == [
        ["0001TP", "5"],
        ["all", "5"],
    ]
    # q = 0, 1/4, 1/2, 3/4, 1: what the usual settings do
    assert ["0001TP", "5", "0.500", "40.0%", "20.0%", "40.0%", "10.0%", "0.750"] in rows
    sheet = cv2.imread(str(tmp_path / "x.png"))
    assert sheet.shape == (3 * (24 + 8), 6 * (32 + 8), 3)


def test_the_settings_of_the_config_count(ask):
    own = ["--config.dance.data.measure=entropy", "--config.dance.data.ratios=(0.25,1.0)"]
    own += ["--config.dance.data.edges=(0.9,)", "--config.dance.data.rank=minmax"]
    status, said = ask(*own)
    assert status == 0 and "entropy of 5 images, rank minmax" in said.out
    assert "r=0.25" in said.out and "r=0.75" not in said.out
    assert "of 5 images, rank" not in ask()[1].out


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--complexity=jpgg"], "--complexity=jpgg"),
        (["--output=x.png"], "--complexity with it"),
        (["--complexity=jpeg", "--output=/proc/no/x.png"], "cannot write /proc/no/x.png"),
        (["--config.dance.data.w_min=0.5"], "give --config.dance.data.measure="),
        (["--config.dance.data.edges=(0.5,)"], "dance.data.edges"),
    ],
)
def test_mistakes_are_one_line(ask, flags, said):
    status, answer = ask(*flags)
    assert status == 2 and said in answer.err and answer.err.count("\n") == 1
