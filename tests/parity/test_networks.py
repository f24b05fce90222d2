"""Every network that torch libraries have too: one random state, equal answers, losses, gradients and statistics."""

import functools

import numpy as np
import pytest

from benchmarks.torch_twins import TWINS
from jaxseg.arch import Arch
from jaxseg.models import zoo
from tests.parity import pairs
from tests.parity.pairs import K

BATCH = 3


def test_every_kind_of_block_and_head_has_a_twin():
    archs = [zoo.named(twin.network, K, **twin.options) for twin in TWINS.values()]
    tried = {spec.kind for arch in archs for spec in zoo.blocks(arch)}
    known = {spec.kind for name in zoo.NAMES for spec in zoo.blocks(zoo.named(name, K))}
    # No library of torch has a loop; tests/models/test_itnet.py holds it to plain NumPy.
    assert tried == known - {"loop", "linear"}


@functools.cache
def pair(name: str):
    """(our architecture, its random state, the torch network with that state, its keys)."""
    twin = TWINS[name]
    arch = zoo.named(twin.network, K, dropout=0.0, **twin.options)
    state = pairs.random_state(arch)
    names = pairs.torch_keys(arch, twin, state)
    return arch, state, pairs.torch_net(arch, twin, state), names


def assert_close(
    ours: np.ndarray, theirs: np.ndarray, tolerance: float, what: str = "", least: float = 0.0
) -> None:
    """The largest difference is within `tolerance` of the largest value, or of `least` if that is larger."""
    assert ours.shape == theirs.shape, what
    scale = max(np.max(np.abs(theirs)), least)
    assert scale > 0, what
    error = np.max(np.abs(ours - theirs)) / scale
    assert error < tolerance, f"{what}: {error:.1e} of its scale"


@pytest.mark.parametrize("name", TWINS)
def test_equal_logits_at_an_even_and_an_odd_size(name):
    arch, state, net, _ = pair(name)
    for size_px in TWINS[name].sizes_px:
        x = pairs.images(2, size_px)
        assert_close(pairs.our_logits(arch, state, x), pairs.torch_logits(net, x), 1e-4)


@pytest.mark.parametrize("name", TWINS)
def test_equal_loss_gradients_and_statistics(name):
    """The running variance of torch is the unbiased one, n / (n - 1) of ours, with n cells in batch and map."""
    arch, state, _, names = pair(name)
    net = pairs.torch_net(arch, TWINS[name], state)  # its own: training changes the statistics
    size_px = TWINS[name].sizes_px[-1]
    x, y = pairs.images(BATCH, size_px), pairs.labels(BATCH, size_px)
    ours = pairs.our_training(arch, state, x, y)
    theirs = pairs.torch_training(net, names, state, x, y)
    assert abs(ours.loss - theirs.loss) < 1e-9 * theirs.loss
    # A bias that a later norm takes away again has a gradient of zero, in exact arithmetic.
    largest = max(np.max(np.abs(gradient)) for gradient in theirs.gradients.values())
    for path, gradient in theirs.gradients.items():
        assert_close(ours.gradients[path], gradient, 1e-6, path, least=1e-6 * largest)
    momentum, cells = arch.numbers.norm_momentum, cells_of_norms(arch, size_px)
    for path, new in theirs.statistics.items():
        kept = momentum * state[path].astype(np.float64)
        if path.endswith("/var"):
            n = cells[path.removeprefix("batch_stats/").removesuffix("/norm/var")]
            new = kept + (new - kept) * (n - 1) / n
        assert_close(ours.statistics[path] - kept, new - kept, 1e-6, path)


def cells_of_norms(arch: Arch, size_px: tuple[int, int]) -> dict[str, int]:
    """'block_00/conv1' -> cells that its norm averages over."""
    cells = {}
    for spec in zoo.blocks(arch):
        for layer in spec.layers:
            cells[f"{spec.name}/{layer.name}"] = BATCH * layer.cells(*size_px)
    return cells
