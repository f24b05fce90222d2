"""No unsafe loader anywhere in the tree: each file is parsed, names are followed through imports, and rules look at it.

The exceptions are named below with their reason. Every rule is shown to catch what it is for.
"""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
FILES = sorted(
    path.relative_to(ROOT).as_posix()
    for folder in ("jaxseg", "benchmarks", "configs", "tests")
    for path in (ROOT / folder).rglob("*.py")
)

FORBIDDEN = {
    "pickle": (
        *("pickle.load", "pickle.loads", "pickle.Unpickler", "_pickle", "cPickle", "dill"),
        *("cloudpickle.load", "cloudpickle.loads", "joblib.load", "pandas.read_pickle"),
        *("marshal.load", "marshal.loads", "shelve.open", "torch.jit.load", "torch.hub.load"),
    ),
    "yaml": ("yaml.load", "yaml.load_all", "yaml.full_load", "yaml.unsafe_load"),
    "eval": ("eval", "exec", "__import__", "builtins.eval", "builtins.exec", "runpy"),
    "import": ("importlib.import_module", "importlib.util.spec_from_file_location"),
    "shell": (
        *("os.system", "os.popen", "subprocess.getoutput", "subprocess.getstatusoutput"),
        *("pty.spawn", "commands.getoutput"),
    ),
    "unpack": ("shutil.unpack_archive", "zipfile.ZipFile.extractall", "tarfile.TarFile.extractall"),
    "json": ("json.load", "json.loads"),
}
"""Rule -> names, or modules, that must not be mentioned, called or not."""

EVERYWHERE = {rule for rule in FORBIDDEN if rule != "json"} | {"call", "assignment"}
OURS = {"json", "open image"}
"""Rules for what users run; tests read their own files."""

ALLOWED = {
    ("jaxseg/cli.py", "import"): "a config file is Python and is run, by the user's own word",
    ("benchmarks/run.py", "import"): "one of our own experiments, by its listed name",
    ("jaxseg/cli.py", "json"): "what was dumped on the same line",
    ("jaxseg/outside.py", "json"): "the one reader",
    ("jaxseg/arch.py", "json"): "what was dumped on the same line",
    ("jaxseg/training/report.py", "json"): "the log of one's own run",
    ("jaxseg/processes.py", "json"): "what the first process of one's own run says",
    ("tests/weights/test_torch_file.py", "pickle"): "shows that the hostile pickles do run",
    ("tests/weights/test_torch_file.py", "shell"): "what a hostile pickle there would call",
}


def offences(source: str) -> Iterator[tuple[int, str, str]]:
    """(line, rule, what) for every offence against any rule."""
    tree = ast.parse(source)
    names = imported(tree)
    for node in ast.walk(tree):
        line = getattr(node, "lineno", 0)
        if isinstance(node, ast.Name | ast.Attribute):
            name = dotted(node, names)
            for rule, forbidden in FORBIDDEN.items():
                if any(name == f or name.startswith(f"{f}.") for f in forbidden):
                    yield line, rule, name
        if isinstance(node, ast.ImportFrom):
            for alias in node.names:
                name = f"{node.module}.{alias.name}"
                for rule, forbidden in FORBIDDEN.items():
                    if any(name == f or name.startswith(f"{f}.") for f in forbidden):
                        yield line, rule, name
        if isinstance(node, ast.Call):
            yield from ((line, *found) for found in call(node, names))
        if isinstance(node, ast.Assign | ast.AugAssign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            for target in targets:
                last = dotted(target, names).rpartition(".")[2]
                if last in ("LOAD_TRUNCATED_IMAGES", "MAX_IMAGE_PIXELS"):
                    yield line, "assignment", last


def imported(tree: ast.AST) -> dict[str, str]:
    """Local name -> what it stands for."""
    names = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                names[alias.asname or alias.name.split(".")[0]] = (
                    alias.name if alias.asname else alias.name.split(".")[0]
                )
        elif isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:
                names[alias.asname or alias.name] = f"{node.module}.{alias.name}"
    return names


def dotted(node: ast.AST, names: dict[str, str]) -> str:
    """'numpy.load' for np.load; '?.load' where what stands before the dot is no name."""
    if isinstance(node, ast.Name):
        return names.get(node.id, node.id)
    if isinstance(node, ast.Attribute):
        return f"{dotted(node.value, names)}.{node.attr}"
    return "?"


def call(node: ast.Call, names: dict[str, str]) -> Iterator[tuple[str, str]]:
    """Offences that depend on arguments."""
    name = dotted(node.func, names)
    last = name.rpartition(".")[2]
    given = {k.arg: getattr(k.value, "value", k.value) for k in node.keywords}
    if given.get("allow_pickle", False) is not False:
        yield "call", f"{name} with allow_pickle"
    if name in ("numpy.load", "numpy.lib.format.read_array") and len(node.args) > 2:
        yield "call", f"{name} with allow_pickle by position"
    if name == "torch.load" and given.get("weights_only") is not True:
        yield "call", "torch.load without weights_only=True"
    if last in ("extract", "extractall") and given.get("filter") != "data":
        yield "call", f"{last} without filter='data'"
    if given.get("shell", False) is not False:
        yield "call", f"{name} with a shell"
    if name == "PIL.Image.open" and "formats" not in given:
        yield "open image", "PIL.Image.open without formats"
    if last == "exec_module":
        yield "import", "exec_module"


@pytest.mark.parametrize("file", FILES)
def test_no_unsafe_loader(file):
    rules = EVERYWHERE | (OURS if file.startswith("jaxseg/") else set())
    found = [
        f"{file}:{line}: {rule}: {what}"
        for line, rule, what in offences((ROOT / file).read_text())
        if rule in rules and (file, rule) not in ALLOWED
    ]
    assert not found, "\n".join(found)


def test_every_exception_is_needed():
    for file, rule in ALLOWED:
        assert rule in {r for _, r, _ in offences((ROOT / file).read_text())}, (file, rule)


CAUGHT = {
    "import pickle\npickle.load(f)": "pickle",
    "import pickle as p\np.loads(b'')": "pickle",
    "from pickle import loads as read": "pickle",
    "import pickle\nclass Mine(pickle.Unpickler): pass": "pickle",
    "import pickle\nfor x in map(pickle.loads, y): pass": "pickle",
    "import dill\ndill.load(f)": "pickle",
    "import joblib\njoblib.load('x')": "pickle",
    "import marshal\nmarshal.loads(x)": "pickle",
    "import torch\ntorch.jit.load(x)": "pickle",
    "import numpy as np\nnp.load(x, allow_pickle=True)": "call",
    "import numpy as np\nnp.load(x, allow_pickle=flag)": "call",
    "import numpy as np\nnp.load(x, None, True)": "call",
    "import torch\ntorch.load(x)": "call",
    "from torch import load\nload(x, weights_only=False)": "call",
    "import yaml\nyaml.load(x, Loader=yaml.Loader)": "yaml",
    "from yaml import unsafe_load": "yaml",
    "eval('1')": "eval",
    "run = exec": "eval",
    "__import__(name)": "eval",
    "import runpy\nrunpy.run_path(x)": "eval",
    "import importlib\nimportlib.import_module(x)": "import",
    "spec.loader.exec_module(module)": "import",
    "import tarfile\nwith tarfile.open(x) as t: t.extractall(y)": "call",
    "t.extract(member, filter='tar')": "call",
    "zipfile.ZipFile(x).extractall(y)": "call",
    "from shutil import unpack_archive\nunpack_archive(x)": "unpack",
    "import subprocess\nsubprocess.run('ls', shell=True)": "call",
    "import subprocess as s\ns.getoutput('ls')": "shell",
    "import os\nos.system('ls')": "shell",
    "from os import popen": "shell",
    "from PIL import ImageFile\nImageFile.LOAD_TRUNCATED_IMAGES = True": "assignment",
    "from PIL import Image\nImage.MAX_IMAGE_PIXELS = None": "assignment",
    "from PIL import Image\nImage.open(x)": "open image",
    "import json\njson.loads(x)": "json",
}


@pytest.mark.parametrize("source", CAUGHT)
def test_each_rule_catches_its_offence(source):
    assert CAUGHT[source] in {rule for _, rule, _ in offences(source)}


FINE = (
    "import pickle\npickle.dumps(x)",
    "import numpy as np\nnp.load(x)\nnp.load(x, allow_pickle=False)",
    "import torch\ntorch.load(x, weights_only=True)",
    "import yaml\nyaml.safe_load(x)",
    "model.eval()\nre.compile(x)\nself.exec(x)",
    "t.extractall(x, filter='data')",
    "import subprocess\nsubprocess.run(['ls'], shell=False)",
    "from PIL import Image\nImage.open(x, formats=('PNG',))",
    "import json\njson.dumps(x)",
)


@pytest.mark.parametrize("source", FINE)
def test_what_is_safe_passes(source):
    assert not list(offences(source))
