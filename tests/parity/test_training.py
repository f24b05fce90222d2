"""Several train steps against torch: gradient, optimiser, decay, schedule and running statistics together."""

import jax
import numpy as np
import pytest
import torch
from flax.traverse_util import flatten_dict

from benchmarks import float64, torch_net, torch_twin
from jaxseg.models import zoo
from jaxseg.training import state as states
from jaxseg.training.loss import Loss
from jaxseg.training.optim import Optim
from jaxseg.training.phases import Phase
from jaxseg.training.steps import supervised
from jaxseg.weights import torch_names
from tests.parity import pairs
from tests.parity.pairs import K

STEPS, SIZE_PX = 5, (49, 65)
MEAN, STD = (0.5, 0.4, 0.3), (0.2, 0.3, 0.25)


def batch(seed: int) -> dict[str, np.ndarray]:
    image = np.random.default_rng(seed).integers(0, 256, (3, *SIZE_PX, 3), np.uint8)
    label = np.roll(pairs.labels(3, SIZE_PX), 4 * seed, axis=1)
    return {"image": image, "label": label, "weight": np.ones(3), "index": np.arange(3)}


@pytest.mark.parametrize(
    "optim",
    [
        Optim("adamw", learning_rate=1e-2, weight_decay=0.1, schedule="cosine", warm_up_steps=2),
        Optim("sgd", learning_rate=0.1, weight_decay=1e-2, nesterov=True, schedule="poly"),
    ],
    ids=lambda optim: optim.name,
)
def test_equal_losses_and_weights_over_steps(optim):
    arch = zoo.named("deeplabv3plus_resnet18", K, width=0.25, dropout=0.0)
    phase = Phase(name="main", steps=STEPS, make_step=None, plan=None, optim=optim)
    step = supervised(
        float64.exact(arch),
        phase,
        loss=Loss(class_weights=pairs.CLASS_WEIGHTS),
        mean=MEAN,
        std=STD,
    )
    state = states.create(arch, phase, seed=0, ema=False)
    net = torch_net.make(arch)
    torch_net.load(net, arch, {"params": state.params, "batch_stats": state.batch_stats})
    recipe = torch_twin.Recipe(optim, STEPS, pairs.CLASS_WEIGHTS, MEAN, STD)
    stream = [batch(seed) for seed in range(STEPS)]
    with float64.everywhere():
        state, ours = torch_twin.follow(step, float64.widened(state), stream)
        theirs = torch_twin.fit(net, stream, recipe, torch.float64)
        params = jax.device_get(state.params)
    np.testing.assert_allclose(ours, theirs, rtol=1e-7)
    found = net.state_dict()
    keys = torch_names.torch_keys(arch, "torchvision_segmentation", torch_net.HEAD_MODULES)
    for path, value in flatten_dict({"params": params}, sep="/").items():
        expected = torch_names.to_ours(path, found[keys[path]].numpy(), value.shape)
        np.testing.assert_allclose(value, expected, atol=1e-6, err_msg=path)
