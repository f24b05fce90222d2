"""A user's mistake is one line that says what, got, expected and what to do; status 2; no traceback."""

import json
import re
import subprocess
import sys
from fnmatch import fnmatchcase
from pathlib import Path

import pytest

from jaxseg import bench, cli, defaults, evaluate, predict, ranges, train
from jaxseg.data import __main__ as data

ROOT = Path(__file__).resolve().parent.parent
QUICKSTART = f"--config={ROOT / 'configs/quickstart.py'}"
INTEGER = [f"--config={ROOT / 'configs/integer_toy_street.py'}", "--workdir=W"]


def run(main, *argv, capsys):
    status = cli.run(main, [str(a) for a in argv])
    return status, capsys.readouterr()


@pytest.fixture
def files(tmp_path):
    """Config files with every kind of mistake in them."""
    head = "from jaxseg import defaults\ndef get_config():\n    c = defaults.get_config()\n"
    texts = {
        "syntax": "def get_config(:\n",
        "none": "x = 1\n",
        "list": "def get_config():\n    return []\n",
        "typo": head + "    c.data.bacth_size = 4\n    return c\n",
        "type": head + "    c.seed = 'one'\n    return c\n",
        "crash": head + "    return c.nothing[0]\n",
        "import": "import no_such_package\n",
        "order": head + "    c.phases.order = ('main', 'mian')\n    return c\n",
    }
    for name, text in texts.items():
        (tmp_path / f"{name}.py").write_text(text)
    return tmp_path


MISTAKES = [
    # flags
    (train, ["--workdir=W"], "--config is missing"),
    (train, [QUICKSTART], "--workdir is missing"),
    (train, [QUICKSTART, "--wrokdir=W"], "did you mean 'workdir'"),
    (train, [QUICKSTART, "--workdir=W", "extra"], "expected flags only"),
    (evaluate, ["--workdir=W", "--split=vla"], "--split=vla"),
    (bench, ["--workdir=W", QUICKSTART], "either --workdir or --config"),
    (bench, [QUICKSTART, "--batch=0"], "whole number, 1 or more"),
    (data, ["chekc", QUICKSTART], "did you mean 'check'"),
    (data, [], "needs a verb"),
    # numbers
    (train, [*INTEGER, "--config.phases.main.optim.learning_rate=0.05"], "take 0.03125 or 0.0625"),
    (train, [*INTEGER, "--config.phases.main.optim.schedule=poly"], "halving or constant"),
    (train, [*INTEGER, "--config.phases.main.optim.name=adamw"], "expected sgd"),
    (train, [*INTEGER, "--config.integer.widths.weights=0"], "got 0; expected 2 to 31 bits"),
    (train, [*INTEGER, "--config.integer.widths.gradients=33"], "got 33; expected 2 to 31 bits"),
    (train, [*INTEGER, "--config.integer.preset=papr"], "did you mean 'paper'"),
    (train, [*INTEGER, "--config.integer.layers=('haed/*:weights=4',)"], "'haed/"),
    (train, [*INTEGER, "--config.model.compute=bfloat16"], "expected float32"),
    # config files
    (train, ["--config=configs/quickstrat.py", "--workdir=W"], "quickstart.py'"),
    (train, ["--config={files}/syntax.py", "--workdir=W"], "syntax.py line 1"),
    (train, ["--config={files}/none.py", "--workdir=W"], "get_config"),
    (train, ["--config={files}/list.py", "--workdir=W"], "ConfigDict"),
    (train, ["--config={files}/typo.py", "--workdir=W"], "batch_size"),
    (train, ["--config={files}/type.py", "--workdir=W"], "type.py line 4"),
    (train, ["--config={files}/crash.py", "--workdir=W"], "crash.py line 4"),
    (train, ["--config={files}/import.py", "--workdir=W"], "no_such_package"),
    (train, ["--config={files}/order.py", "--workdir=W"], "did you mean 'main'"),
    # keys and types
    (train, [QUICKSTART, "--workdir=W", "--config.sed=1"], "did you mean 'seed'"),
    (train, [QUICKSTART, "--workdir=W", "--config.data.nmae=x"], "did you mean 'data.name'"),
    (train, [QUICKSTART, "--workdir=W", "--config.data=3"], "is a section"),
    (train, [QUICKSTART, "--workdir=W", "--config.seed=one"], "expected int"),
    (train, [QUICKSTART, "--workdir=W", "--config.data.decoded_cache=maybe"], "expected bool"),
    (train, [QUICKSTART, "--workdir=W", "--config.data.mean=(1,"], "expected tuple"),
    (train, [QUICKSTART, "--workdir=W", "--config.seed"], "Missing value"),
    # names and values
    (
        train,
        [QUICKSTART, "--workdir=W", "--config.data.name=toystreet"],
        "did you mean 'toy_street'",
    ),
    (train, [QUICKSTART, "--workdir=W", "--config.model.name=resnet18"], "unknown network"),
    (
        train,
        [QUICKSTART, "--workdir=W", "--config.model.output_stride=7"],
        "expected one of \\(16, 8, 32\\), or 0 for 16",
    ),
    (train, [QUICKSTART, "--workdir=W", "--config.model.compute=float16"], "bfloat16"),
    (
        train,
        [QUICKSTART, "--workdir=W", "--config.model.pretrained=efficientnet_lite"],
        "did you mean 'efficientnet_lite0'",
    ),
    (train, [QUICKSTART, "--workdir=W", "--config.model.pretrained=no/such.pth"], "existing file"),
    (train, [QUICKSTART, "--workdir=W", "--config.parallel.mode=pjit"], "jit"),
    (
        train,
        [QUICKSTART, "--workdir=W", "--config.phases.main.optim.name=sdg"],
        "did you mean 'sgd'",
    ),
    (train, [QUICKSTART, "--workdir=W", "--config.phases.main.optim.schedule=ploy"], "'poly'"),
    (train, [QUICKSTART, "--workdir=W", "--config.phases.main.steps=0"], "1 or more"),
    (
        train,
        [QUICKSTART, "--workdir=W", "--config.phases.main.trainable=('haed',)"],
        "matches no part",
    ),
    (train, [QUICKSTART, "--workdir=W", "--config.data.batch_size=0"], "1 or more"),
    (train, [QUICKSTART, "--workdir=W", "--config.data.batch_size=3"], "multiple of the 2 devices"),
    (train, [QUICKSTART, "--workdir=W", "--config.accumulate=3"], "divisor"),
    (train, [QUICKSTART, "--workdir=W", "--config.loss.class_weights=(1,2)"], "one per class"),
    (train, [QUICKSTART, "--workdir=W", "--config.loss.class_weights=('a',)"], "expected numbers"),
    *(
        (train, [QUICKSTART, "--workdir=W", f"--config.{key}={value}"], f"{key}: got .* expected ")
        for key, values in {
            "itnet.exits": ("('a',)", "(1.5,)", "(True,)"),
            "itnet.exit_weights": ("('a',)",),
            "mess.blocks": ("(3,)",),
            "mess.heads.reductions": ("('a',)", "(2.5,)"),
            "mess.heads.extra_blocks": ("(0.5,)", "('a',)"),
            "mess.heads.rapid_dilation": ("('x',)", "(1,)"),
            "mess.heads.kinds": ("(1,)",),
            "eval.exits.chosen": ("(0.5,)", "('a',)"),
            "eval.exits.image": ("('a',)",),
            "eval.exits.pixel": ("('a',)",),
            "eval.scales": ("('a',)",),
            "phases.order": ("(1,)",),
            "phases.main.trainable": ("(1,)",),
            "phases.main.optim.halve_at": ("('a',)",),
            "mess.stage_2.optim.halve_at": ("('a',)",),
            "integer.layers": ("(1,)",),
        }.items()
        for value in values
    ),
    (train, [QUICKSTART, "--workdir=W", "--config.loss.label_smoothing=1.5"], r"\[0, 1\)"),
    (train, [QUICKSTART, "--workdir=W", "--config.loss.weights.lovas=1"], "did you mean"),
    (train, [QUICKSTART, "--workdir=W", "--config.loss.weights.dice=-1"], "0 or more"),
    (train, [QUICKSTART, "--workdir=W", "--config.loss.weights.cross_entropy=0"], "above 0"),
    (train, [QUICKSTART, "--workdir=W", "--config.ema_decay=1.0"], r"\[0, 1\)"),
    (train, [QUICKSTART, "--workdir=W", "--config.data.train_split=trian"], "did you mean 'train'"),
    (
        train,
        [QUICKSTART, "--workdir=W", "--config.eval.window_px=(16,64)"],
        "window_px.*32 or more",
    ),
    # folders and files
    (train, [QUICKSTART, "--workdir=W", "--config.data.name=camvid"], "data.dir|layout"),
    (
        train,
        [QUICKSTART, "--workdir=W", "--config.data.name=folder", "--config.data.dir=/nowhere"],
        "/nowhere",
    ),
    (evaluate, ["--workdir=/nowhere"], "no such folder"),
    (evaluate, ["--workdir={files}"], "no model at"),
    (evaluate, [f"--workdir={'x' * 5000}"], "cannot use 'xxx.*File name too long"),
    (
        train,
        [QUICKSTART, "--workdir=W", "--config.data.name=folder", f"--config.data.dir={'x' * 5000}"],
        "cannot use 'xxx.*File name too long",
    ),
    (predict, ["--workdir={files}", "--input=x", "--output=y"], "no model at"),
]


@pytest.mark.parametrize("command, argv, says", MISTAKES)
def test_mistakes(command, argv, says, files, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(ROOT)
    argv = [a.replace("{files}", str(files)).replace("=W", f"={tmp_path / 'w'}") for a in argv]
    status, printed = run(command.main, *argv, capsys=capsys)
    assert status == cli.MISTAKE, printed.err
    assert printed.err.startswith("error: ") and printed.err.count("\n") == 1
    assert "Traceback" not in printed.err
    assert re.search(says, printed.err), printed.err


def test_the_items_of_every_setting_have_a_type():
    many = [key for key, x in cli.flat_keys(defaults.get_config()).items() if isinstance(x, tuple)]
    without = [k for k in many if not any(fnmatchcase(k, glob) for glob in ranges.ITEMS)]
    assert not without and len(many) == len(ranges.ITEMS)


def test_help_is_not_a_mistake(capsys):
    with pytest.raises(SystemExit) as stop:
        run(train.main, "--help", capsys=capsys)
    assert stop.value.code == 0


def shell(line):
    """Status of python in `line`, and what came on stderr; `{}` stands for the start of a command's code."""
    begin = f'"{sys.executable}" -c "import sys; from jaxseg import bench, cli; sys.exit(cli.run('
    script = f"{line.format(begin)}; exit ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True)
    return done.returncode, done.stderr


def test_output_that_nobody_reads_ends_quietly():
    assert shell('{}bench.main))" --help | true') == (141, "")
    many = '{}lambda _: [print(i) for i in range(100000)] and 0))" | head -n 1'
    assert shell(many) == (141, "")


def test_another_pipe_that_breaks_is_a_bug(capsys):
    def broken(argv):
        raise BrokenPipeError(32, "Broken pipe")

    status, printed = run(broken, capsys=capsys)
    assert status == cli.FAILED and "this is a bug" in printed.err


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full, of Linux")
def test_a_full_disk_under_the_output_is_one_line():
    status, told = shell('{}bench.main))" --help > /dev/full')
    assert status == cli.FAILED
    assert (
        told == "error: output: No space left on device; make room, then the same command again\n"
    )


def test_a_bug_keeps_its_traceback(capsys):
    def broken(argv):
        raise ZeroDivisionError("ours")

    status, printed = run(broken, capsys=capsys)
    assert status == cli.FAILED and "ZeroDivisionError" in printed.err


def test_overrides_reach_every_type():
    argv = [
        "--config.seed=3",
        "--config.data.decoded_cache=false",
        "--config.phases.main.optim.learning_rate=1",
        "--config.loss.class_weights=(1.0,2.0)",
        "--config.data.name",
        "camvid",
        "--workdir=W",
    ]
    config = cli.override(defaults.get_config(), argv)
    assert (config.seed, config.data.decoded_cache, config.data.name) == (3, False, "camvid")
    assert config.phases.main.optim.learning_rate == 1.0
    assert config.loss.class_weights == (1.0, 2.0)
    own, overrides = cli.split_overrides(argv)
    assert own == ["--workdir=W"] and len(overrides) == 6


def test_plain_values_round_trip_through_json():
    config = defaults.get_config()
    plain = json.loads(json.dumps(cli.to_plain(config)))
    assert cli.from_plain(plain).to_dict() == config.to_dict()


def test_defaults_are_locked():
    config = defaults.get_config()
    with pytest.raises(AttributeError):
        config.data.nmae = "x"
    with pytest.raises(AttributeError):
        config.phases.main.optim.lr = 1.0
