"""The house holds: imports go one way, JAX and Flax stay where they belong."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "jaxseg"
FILES = sorted(PACKAGE.rglob("*.py"))

# From the ground up. A file may import from its own floor and from below.
FLOORS = (
    ("jaxseg.errors", "jaxseg.types"),
    ("jaxseg.outside", "jaxseg.output", "jaxseg.tensors"),
    ("jaxseg.numbers", "jaxseg.flow"),
    ("jaxseg.arch",),
    ("jaxseg.padding",),
    ("jaxseg.objectives",),
    ("jaxseg.data", "jaxseg.quant"),
    ("jaxseg.layers",),
    ("jaxseg.models",),
    ("jaxseg.conversion",),
    ("jaxseg.inference",),
    ("jaxseg.weights",),
    ("jaxseg.energy", "jaxseg.runtime", "jaxseg.processes"),
    ("jaxseg.training",),
    ("jaxseg.methods",),
    ("jaxseg.defaults",),
    ("jaxseg.cli",),
    ("jaxseg.ranges",),
    ("jaxseg.sections",),
    ("jaxseg.build",),
    (
        "jaxseg.train",
        "jaxseg.evaluate",
        "jaxseg.predict",
        "jaxseg.bench",
        "jaxseg.export",
        "jaxseg.deploy",
        "jaxseg.data.__main__",
    ),
)


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports(path: Path) -> set[str]:
    """Absolute names of what a file imports, 'from a import b' counted as a.b."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"relative import in {path}"
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def floor(name: str) -> int:
    """The floor with the longest matching prefix."""
    matches = [
        (len(prefix), i)
        for i, prefixes in enumerate(FLOORS)
        for prefix in prefixes
        if name == prefix or name.startswith(prefix + ".")
    ]
    assert matches, f"{name} has no floor: add it to FLOORS and docs/design.md"
    return max(matches)[1]


@pytest.mark.parametrize("path", FILES, ids=module_name)
def test_imports_go_down(path):
    name = module_name(path)
    if name == "jaxseg":
        return  # the front door: it opens everything, lazily
    for used in imports(path):
        if used.startswith("jaxseg."):
            assert floor(used) <= floor(name), f"{name} imports {used} from above"


@pytest.mark.parametrize("path", FILES, ids=module_name)
def test_jax_and_flax_stay_in_their_rooms(path):
    name, used = module_name(path), {x.split(".")[0] for x in imports(path)}
    if name.startswith("jaxseg.data") and name != "jaxseg.data.__main__":
        assert not used & {"jax", "flax", "optax"}, "data/ is host only"
    if name in ("jaxseg.arch", "jaxseg.numbers", "jaxseg.flow", "jaxseg.padding"):
        assert "jax" not in used
    linen = any(x.startswith("flax.linen") or x == "flax.linen" for x in imports(path))
    rooms = ("jaxseg.layers", "jaxseg.models", "jaxseg.methods")
    assert not linen or name.startswith(rooms), "flax.linen belongs to layers, models, methods"


@pytest.mark.parametrize("path", FILES, ids=module_name)
def test_only_build_cli_and_entry_points_read_configs(path):
    name = module_name(path)
    if "ml_collections" in {x.split(".")[0] for x in imports(path)}:
        assert floor(name) >= floor("jaxseg.defaults"), "configs stop at build.py"


def test_no_file_grows_without_being_asked_why():
    long = {p.name: n for p in FILES if (n := len(p.read_text().splitlines())) > 400}
    assert not long, "over 400 lines: does it have one reason to exist?"
