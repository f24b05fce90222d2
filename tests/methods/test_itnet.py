"""Deep supervision of a loop: who learns from which answer (I6), over devices, and its limits (bad input)."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxseg import build, cli
from jaxseg.data import datasets
from jaxseg.data.plan import TrainPlan
from jaxseg.errors import UserError
from jaxseg.inference.labelling import labels_at
from jaxseg.layers.normalise import normalise
from jaxseg.methods.itnet import Settings, answered, deep_supervision
from jaxseg.models import zoo
from jaxseg.models.itnet import with_iterations
from jaxseg.objectives.metrics import confusion_matrix, scores_from_confusion
from jaxseg.training import state as states
from jaxseg.training import steps
from jaxseg.training.loss import Loss
from jaxseg.training.optim import Optim
from jaxseg.training.parallel import Parallel
from jaxseg.training.phases import Phase
from jaxseg.types import Outputs
from tests.fakes import NUM_CLASSES, FakeSplit, batch
from tests.models.test_itnet import equations
from tests.models.test_zoo import CHEAP, filled

MEAN, STD = (0.5,) * 3, (0.25,) * 3
BASE = Loss(class_weights=(0.5, 1.0, 2.0), weights={"cross_entropy": 1.0, "dice": 0.5})
CHEAPER = Loss(class_weights=(0.5, 1.0, 2.0))
OPTIM = Optim(learning_rate=0.05, weight_decay=0.01)


def network(sharing="weights", iterations=3, aux=False, scales=3):
    options = {"width": 0.125, "dropout": 0.0, "aux": aux, "scales": scales}
    return zoo.named("itnet", NUM_CLASSES, sharing=sharing, iterations=iterations, **options)


def phase_of(arch, settings=None, loss=CHEAPER, num_steps=10, optim=OPTIM):
    """A phase; plainly supervised without settings."""
    make = functools.partial(steps.supervised, loss=loss, mean=MEAN, std=STD)
    phase = Phase("main", num_steps, make, TrainPlan(4, 4, seed=0, size_px=(32, 32)), optim)
    return phase if settings is None else deep_supervision((phase,), arch, settings)[0]


def take(arch, phase, *, mode="jit", devices=1):
    """The state and the sums after one step, on the host."""
    parallel = Parallel.over(mode, 4, jax.devices()[:devices])
    compiled = parallel.compile(functools.partial(phase.make_step, arch, phase))
    state = parallel.put_state(states.create(arch, phase, 0, ema=False))
    data = batch()
    return jax.device_get(compiled(state, parallel.put_batch(data)))


def gradient_of(arch, forward, loss=CHEAPER):
    """((loss sum, statistics after), gradient) of a `steps.Forward`."""
    module, variables, data = zoo.module(arch), filled(arch), batch()

    def total(params):
        sums, _, stats = forward(
            module, loss, {**variables, "params": params}, data["image"] / 255.0, data,
            jax.random.PRNGKey(0), jnp.int32(0),
        )  # fmt: skip
        return loss.pooled(sums, loss.counts(data))[0], stats

    run = jax.jit(jax.value_and_grad(total, has_aux=True), compiler_options=CHEAP)
    return run(variables["params"])


def over(iterations, shares):
    return functools.partial(answered, iterations=iterations, shares=shares)


def test_the_last_answer_alone_is_plain_training():
    arch = network(aux=True)
    chosen = Settings((1, 2, 3), (0.0, 0.0, 2.0)).of(arch)
    assert chosen == ((3,), (1.0,))
    plain, last = gradient_of(arch, steps.whole), gradient_of(arch, over(*chosen))
    chex.assert_trees_all_close(plain, last, rtol=1e-4, atol=1e-5)


def test_the_loss_is_the_weighted_mean_of_the_losses_of_the_answers():
    arch, data = network(), batch()
    variables = filled(arch)

    @functools.partial(jax.jit, compiler_options=CHEAP)
    def run(variables, image):
        (logits, _), _ = zoo.module(arch).apply(
            variables, image, (1, 2, 3), True, method="answers",
            mutable=["batch_stats"], rngs={"dropout": jax.random.PRNGKey(0)},
        )  # fmt: skip
        return logits

    logits = run(variables, data["image"] / 255.0)
    counts = BASE.counts(data)
    each = [BASE.pooled(BASE(Outputs(y, {}, {}), data)[0], counts)[0] for y in logits]
    iterations, shares = Settings((1, 3), (1.0, 3.0)).of(arch)
    assert (iterations, shares) == ((1, 3), (0.25, 0.75))
    (found, _), _ = gradient_of(arch, over(iterations, shares), BASE)
    np.testing.assert_allclose(found, 0.25 * each[0] + 0.75 * each[2], rtol=1e-5)
    assert Settings().of(arch) == ((1, 2, 3), (1 / 3,) * 3)


def test_an_answer_teaches_data_block_classifier_and_the_passes_before_it(n=2):
    arch = network("nothing")
    found = gradient_of(arch, over((n,), (1.0,)))[1]
    norms = {name: np.linalg.norm(tree["conv" if name < "block_03" else "logits"]["kernel"])
             for name, tree in found.items() if name != "block_03"}  # fmt: skip
    assert min(norms.values()) > 0
    passes = np.linalg.norm(np.asarray(found["block_03"]["fuse"]["kernel"]).reshape(3, -1), axis=1)
    # Passes up to the answer learn, those behind it do not.
    assert np.all(passes[:n] > 0) and not passes[n:].any()


@pytest.mark.parametrize("mode", ("jit", "pmap"))
def test_two_devices_equal_one(mode):
    """Statistics of every pass over the global batch, void spread unevenly."""
    arch = network(iterations=2, scales=1)
    phase = phase_of(arch, Settings())
    one, one_sums = one_device()
    two, two_sums = take(arch, phase, mode=mode, devices=2)
    chex.assert_trees_all_close(one_sums, two_sums, rtol=1e-3)
    chex.assert_trees_all_close(one.params, two.params, rtol=2e-3, atol=5e-5)
    chex.assert_trees_all_close(one.batch_stats, two.batch_stats, rtol=1e-3, atol=1e-5)


@functools.cache
def one_device():
    arch = network(iterations=2, scales=1)
    return take(arch, phase_of(arch, Settings()))


def test_the_step_is_lowered_for_every_platform_and_does_not_grow():
    sizes = []
    for iterations in (3, 12):
        arch = network(iterations=iterations)
        phase = phase_of(arch, Settings())
        step = phase.make_step(arch, phase)
        state = jax.eval_shape(lambda a=arch, p=phase: states.create(a, p, 0, ema=False))
        data = {k: jax.ShapeDtypeStruct(v.shape, v.dtype) for k, v in batch().items()}
        platforms = ("cpu", "cuda", "tpu") if iterations == 3 else ("cpu",)
        exported = jax.export.export(jax.jit(step), platforms=platforms)(state, data)
        assert exported.platforms == platforms
        sizes.append(equations(jax.make_jaxpr(step)(state, data).jaxpr))
    assert sizes[0] == sizes[1]


# --- Configs ---

ARGS = ("--config.model.name=itnet", "--config.model.width=0.125", "--config.loss.class_weights=()")


def planned(monkeypatch, *overrides):
    config = cli.override(cli.load_config("configs/quickstart.py"), [*ARGS, *overrides])
    monkeypatch.setattr(datasets, "describe", lambda name, dir: FakeSplit().spec)
    monkeypatch.setattr(build, "open_split", lambda data, split: FakeSplit(split))
    return build.training_plan(config, name="quickstart")


def test_the_config_says_what_is_built(monkeypatch):
    plan = planned(monkeypatch, "--config.itnet.iterations=5", "--config.itnet.sharing=nothing")
    loop = plan.arch.backbone.blocks[-1]
    assert (plan.arch.family, loop.kind, loop.repeats) == ("itnet", "loop_unshared", 5)
    assert plan.phases[0].make_step.keywords["forward"].keywords["iterations"] == (1, 2, 3, 4, 5)


@pytest.mark.parametrize(
    "override, words",
    [
        ("--config.itnet.iterations=0", "itnet.iterations: got 0; expected 1 to 1000"),
        ("--config.itnet.exits=(4,9)", "itnet.exits: got (4, 9); expected 1 to 8"),
        ("--config.itnet.exits=(4,2)", "each once, in order"),
        ("--config.itnet.exit_weights=(1,-1,1,1,1,1,1,1)", "itnet.exit_weights: got -1"),
        ("--config.itnet.exit_weights=(1,1)", "expected 8 numbers"),
        ("--config.itnet.exit_weights=(0,0,0,0,0,0,0,0)", "at least one above 0"),
        ("--config.mess.num_exits=3", "itnet has exits of its own"),
    ],
)
def test_mistakes_are_one_line(monkeypatch, override, words):
    with pytest.raises(UserError) as error:
        planned(monkeypatch, override)
    assert words in str(error.value) and "\n" not in str(error.value)


# --- I7, and I10 of a trained network ---


@pytest.mark.parametrize("every, most", [(False, 1.1), (True, 6.5)])
def test_memory_of_training_grows_by_so_many_maps_per_pass(every, most):
    """As the documents say: one where only the last pass answers, about six where every pass does."""
    size = 2, 128, 192
    one_map = 4 * size[0] * (size[1] // 8) * (size[2] // 8) * 64

    def temporary_bytes(passes):
        arch = zoo.named("itnet", NUM_CLASSES, iterations=passes, scales=1)
        phase = phase_of(arch, Settings(() if every else (passes,)))
        state = jax.eval_shape(lambda: states.create(arch, phase, 0, ema=False))
        shape = lambda kind, *s: jax.ShapeDtypeStruct(s, kind)  # noqa: E731
        data = {"image": shape(jnp.uint8, *size, 3), "label": shape(jnp.uint8, *size)}
        data["weight"] = shape(jnp.float32, size[0])
        step = jax.jit(phase.make_step(arch, phase), donate_argnums=0)
        return step.lower(state, data).compile(CHEAP).memory_analysis().temp_size_in_bytes

    few, many = map(temporary_bytes, (4, 12))
    per_pass = (many - few) / 8 / one_map
    assert 0.9 <= per_pass <= most, per_pass


@pytest.mark.slow
def test_more_passes_fit_better_and_stay_bounded_when_trained():
    """Four images, grey but for a coloured end that tells the class of all pixels: one pass does not see so far."""
    data = batch(height_px=32, width_px=256)
    classes = np.array([0, 1, 2, 1], np.uint8)
    data["image"] = np.full((4, 32, 256, 3), 128, np.uint8)
    for image, k in zip(data["image"], classes, strict=True):
        image[:, :16] = 255 * np.eye(3, dtype=np.uint8)[k]
    data["label"] = np.broadcast_to(classes[:, None, None], (4, 32, 256)).copy()
    arch = zoo.named("itnet", NUM_CLASSES, width=0.25, iterations=6, dropout=0.0)
    phase = deep_supervision(
        (
            phase_of(
                arch, loss=Loss(), num_steps=300, optim=Optim(name="adamw", learning_rate=5e-3)
            ),
        ),
        arch,
        Settings(),
    )[0]
    step = jax.jit(phase.make_step(arch, phase))
    state, losses = states.create(arch, phase, 0, ema=False), []
    for _ in range(phase.steps):
        state, sums = step(state, data)
        losses.append(float(sums["loss_sum"] / sums["loss_count"]))
    assert np.mean(losses[-10:]) < 0.5 * np.mean(losses[:10])

    variables = jax.device_get(states.inference_variables(state))
    far, more = with_iterations(arch, variables, 4 * 6)
    x = normalise(data["image"], MEAN, STD, jnp.float32)
    maps, logits = zoo.module(far).apply(
        more, x, method=lambda m, x: (m.block_03.states(m.data(x)), m.answers(x, (1, 6))[0])
    )
    tables = [
        confusion_matrix(data["label"], np.asarray(labels_at(y, (32, 256))), NUM_CLASSES)
        for y in logits
    ]
    first, last = (scores_from_confusion(table)["miou"] for table in tables)
    assert last > first + 0.2
    peaks = np.abs(np.asarray(maps)).max(axis=(1, 2, 3, 4))
    # 4 times the passes: no more than 3 times the largest state of a trained one.
    assert np.all(np.isfinite(peaks)) and peaks[6:].max() <= 3 * peaks[:6].max()
