"""MESS (Kouris et al., 2106.03527): exits trained in two stages, as a function on phases.

Stage 1 (section 3.3.1) is the run's last phase with plain FCN heads on every exit point, of which one learns per step.
In stage 2 (section 3.3.2) heads of all designs behind every exit point take the place of the first ones and learn from
labels and from the final answer; everything else is frozen. Heads share nothing, so learning together or apart is the
same; it is one phase per exit point, all of its heads in one pass over the frozen features, because the time to compile
grows faster than the number of heads (2 busy CPU cores: about a minute for 16 heads, over six for 48).
"""

import functools
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxseg.arch import Arch
from jaxseg.data.plan import TrainPlan
from jaxseg.errors import UserError, unknown_name
from jaxseg.layers.conv import initial
from jaxseg.layers.resize import resize_bilinear
from jaxseg.models import mess, zoo
from jaxseg.models.mess import ExitDesign
from jaxseg.objectives import losses
from jaxseg.objectives.distillation import distillation, kept_pixels
from jaxseg.objectives.metrics import best_class
from jaxseg.training.loss import Loss
from jaxseg.training.optim import Optim
from jaxseg.training.phases import Phase
from jaxseg.training.state import TrainState
from jaxseg.training.steps import Now
from jaxseg.types import Array, Batch, Outputs

ROUND_ROBIN, PRINTED, SUM, NONE, SKIP = STAGE_1 = ("round_robin", "printed", "sum", "none", "skip")
CE, KD, CE_KD, PFD = EXIT_LOSSES = ("ce", "kd", "ce+kd", "pfd")
VALID, KEPT = NORMALISATIONS = ("valid", "kept")

STAGE_2_SEED = 7_000_003
"""Added to the seed of the last phase: another stage is another shuffling."""


@dataclass(frozen=True)
class Settings:
    """What MESS adds to a run.

    num_exits: N, the final answer included.
    blocks:    names of the blocks that early exits follow; empty = `mess.placement` on the training crops.
    designs:   of the heads of stage 2, all of them behind every block.
    width:     of DLB heads, see `mess.exit_head`. dropout: of all heads.
    stage_1:   'round_robin' (one exit a step), 'printed' (eq. 2 to the letter), 'sum' (all exits, as usual for
               multi-exit networks), 'none' (the phase stays as it is) or 'skip' (it is left out: the network comes
               trained, and only heads are added to it).
    go_on:     heads of stage 2 that are as one of stage 1 start from its weights, not afresh (ours).
    steps, optim: of stage 2.
    loss, alpha, normalise, label_stride: see `ExitLoss`.
    """

    num_exits: int
    designs: tuple[ExitDesign, ...]
    steps: int
    optim: Optim
    blocks: tuple[str, ...] = ()
    width: float = 1.0
    dropout: float = 0.0
    stage_1: str = ROUND_ROBIN
    go_on: bool = False
    loss: str = PFD
    alpha: float = 0.5
    normalise: str = VALID
    label_stride: int = 1

    def __post_init__(self):
        if self.stage_1 not in STAGE_1:
            raise unknown_name("mess.stage_1", self.stage_1, STAGE_1)
        if self.num_exits < 2:
            raise UserError(
                "mess.num_exits", got=self.num_exits, expected="2 or more, or 0 for none"
            )
        if self.blocks and len(self.blocks) != self.num_exits - 1:
            raise UserError(
                "mess.blocks",
                got=f"{len(self.blocks)} names",
                expected=f"num_exits - 1 = {self.num_exits - 1}, or none",
            )
        self.exit_loss(Loss(), ())
        if not self.designs:
            raise UserError("mess.heads", got="an empty list", expected="one value or more of each")
        if self.go_on and (self.stage_1 in (NONE, SKIP) or ExitDesign() not in self.designs):
            raise UserError(
                "mess.heads.go_on",
                got=f"stage_1={self.stage_1}, {len(self.designs)} designs",
                expected="a stage 1 with exits, and their design (1 in reductions, 0 in extra_blocks, fcn) in stage 2",
            )
        if self.optim.clip_norm:
            raise UserError(
                "mess.stage_2.optim.clip_norm",
                got=self.optim.clip_norm,
                expected="0: a common norm would make the heads depend on each other",
            )

    def exit_loss(self, base: Loss, names: tuple[str, ...]) -> "ExitLoss":
        """What the heads `names` learn from."""
        return ExitLoss(base, names, self.loss, self.alpha, self.normalise, self.label_stride)

    def places(self, arch: Arch, size_px: tuple[int, int]) -> tuple[str, ...]:
        """The blocks that early exits of `arch` follow; UserError if `arch` cannot have them."""
        blocks = self.blocks or mess.placement(arch, self.num_exits, size_px)
        mess.with_exits(arch, blocks, self.designs)
        return blocks


def multi_exit(phases: Sequence[Phase], settings: Settings, loss: Loss) -> tuple[Phase, ...]:
    """The run with exits: its last phase exit-aware, then the phases 'exits_1' .., one per exit point.

    Args:
        phases: a run. Of the last one `make_step` must take the keywords `loss` and `forward` of `steps.supervised`.
        settings: of the method.
        loss: of the run; stage 2 has its class weights.
    """
    *before, last = phases
    if settings.stage_1 not in (NONE, SKIP):
        everything = "*" in last.trainable
        last = replace(
            last,
            make_step=functools.partial(
                last.make_step, forward=functools.partial(exit_dropout, form=settings.stage_1)
            ),
            on_enter=_then(last.on_enter, _entering(settings, last.plan, (ExitDesign(),))),
            trainable=last.trainable if everything else (*last.trainable, "exit_*"),
            begins=("exit_*",),
        )
    stage_2 = []
    for point in range(settings.num_exits - 1):
        here = range(point * len(settings.designs), (point + 1) * len(settings.designs))
        names = tuple(f"exit_{i}" for i in here)
        entering = _entering(settings, last.plan, settings.designs, go_on=settings.go_on)
        attach = _then(_settle, entering)
        stage_2.append(
            Phase(
                name=f"exits_{point + 1}",
                steps=settings.steps,
                make_step=functools.partial(
                    phases[-1].make_step, loss=settings.exit_loss(loss, names)
                ),
                # The same batches for all, as if they learnt together.
                plan=replace(last.plan, seed=last.plan.seed + STAGE_2_SEED),
                optim=settings.optim,
                trainable=names,
                begins=names,
                on_enter=attach if point == 0 else None,
                about=f"{len(names)} heads behind exit point {point + 1} of {settings.num_exits - 1}, all else frozen: "
                f"loss is the sum of theirs, mIoU train that of {names[-1]}, mIoU val that of the final answer",
            )
        )
    return (*before, *(() if settings.stage_1 == SKIP else (last,)), *stage_2)


# --- Stage 1 ---


def exit_weights(form: str, step: Array, early: int) -> tuple[Array, Array]:
    """Weights of the cross-entropies in step j of stage 1: (float32 [early], scalar for the final answer).

    round_robin: 1 for exit 1 + j mod (N - 1), which is index j mod (N - 1) here; what the paper's words say.
    printed:     eq. 2 as it stands, sum over i of (1[j mod i = 0] CE_i + CE_N).
    sum:         1 for all.
    """
    order = jnp.arange(1, early + 1)
    if form == ROUND_ROBIN:
        return (order == 1 + step % early).astype(jnp.float32), jnp.float32(1)
    if form == PRINTED:
        return (step % order == 0).astype(jnp.float32), jnp.float32(early)
    return jnp.ones(early, jnp.float32), jnp.float32(1)


def exit_dropout(
    module: Any,
    loss: Loss,
    variables: dict[str, Any],
    image: Array,
    batch: Batch,
    key: Array,
    now: Now,
    *,
    form: str,
) -> tuple[dict[str, Array], Array, dict[str, Any]]:
    """Stage 1's `steps.Forward`: the final answer, and of the early ones those of this step.

    Exits that are not active do not run: no value, no gradient, no batch statistics.
    """
    arch, rngs = module.arch, {"dropout": key}
    (_, taps), updated = module.apply(
        variables, image, 0, len(arch.backbone.blocks), True,
        method="run", mutable=["batch_stats"], rngs=rngs,
    )  # fmt: skip
    stats = dict(updated.get("batch_stats", variables["batch_stats"]))

    def score(name: str) -> tuple[Array, dict[str, Any]]:
        """(logits, statistics after) of one head."""
        part = {kind: {name: tree[name]} for kind, tree in variables.items() if name in tree}
        logits, updated = module.apply(
            part, name, taps, True, method="score", mutable=["batch_stats"], rngs=rngs
        )
        return logits, dict(updated.get("batch_stats", {}))

    logits, new = score("head")
    stats |= new
    aux = {}
    for i in range(len(arch.aux)):
        aux[f"aux_{i}"], new = score(f"aux_{i}")
        stats |= new
    totals, prediction = loss(Outputs(logits, aux, {}), batch)
    weights, final = exit_weights(form, now.phase_step, len(arch.exits))
    totals = {name: final * total for name, total in totals.items()}
    before = variables["batch_stats"]

    def active(name: str) -> tuple[dict[str, Array], dict[str, Any]]:
        logits, new = score(name)
        return loss(Outputs(logits, {}, {}), batch)[0], new

    def dropped(name: str) -> tuple[dict[str, Array], dict[str, Any]]:
        nothing = {term: jnp.zeros(()) for term in loss.names}
        return nothing, {name: before[name]} if name in before else {}

    for i in range(len(arch.exits)):
        run, skip = (functools.partial(f, f"exit_{i}") for f in (active, dropped))
        # Without the condition all heads would run in every step.
        own, new = run() if form == SUM else jax.lax.cond(weights[i] > 0, run, skip)
        stats |= new
        totals = {term: total + own[term] for term, total in totals.items()}
    return totals, prediction, stats


# --- Stage 2 ---


@dataclass(frozen=True)
class ExitLoss:
    """Sum over exits of alpha CE(label) + (1 - alpha) KL(final answer || exit), an `Objective`.

    Both are means over pixels at the labels' resolution (with `base.per_image` over each image's first); void counts in
    neither. The final answer has no gradient.

    base:      of the run; its class weights, and whether means are per image first, hold here too.
    names:     of the exits that learn; empty = all.
    kind:      'pfd' (eq. 3: labels count where the final answer is right), 'ce+kd' (everywhere), 'ce', 'kd' (one of
               the two alone, whatever alpha is).
    alpha:     share of the labels, in [0, 1].
    normalise: cross-entropy divided by 'valid' pixels or by 'kept' ones (then with accumulate = 1 only).
    label_stride: every so many-th row and column of labels counts; the loss of many heads is most of the work.
    """

    base: Loss = field(default_factory=Loss)
    names: tuple[str, ...] = ()
    kind: str = PFD
    alpha: float = 0.5
    normalise: str = VALID
    label_stride: int = 1

    def __post_init__(self):
        if self.kind not in EXIT_LOSSES:
            raise unknown_name("mess.loss", self.kind, EXIT_LOSSES)
        if self.normalise not in NORMALISATIONS:
            raise unknown_name("mess.normalise", self.normalise, NORMALISATIONS)
        if not 0 <= self.alpha <= 1:
            raise UserError("mess.alpha", got=self.alpha, expected="a number in [0, 1]")
        if self.label_stride < 1:
            raise UserError("mess.label_stride", got=self.label_stride, expected="1 or more")

    @property
    def shares(self) -> tuple[float, float]:
        """Of labels and of the final answer."""
        alpha = {CE: 1.0, KD: 0.0}.get(self.kind, self.alpha)
        return alpha, 1.0 - alpha

    def counts(self, batch: Batch) -> dict[str, Array]:
        """Weighted valid pixels, with class weights for the labels and without them for the final answer."""
        _, by_label, by_teacher = self._targets(batch)
        return {"label": jnp.sum(by_label), "teacher": jnp.sum(by_teacher)}

    def __call__(self, outputs: Outputs, batch: Batch) -> tuple[dict[str, Array], Array]:
        """(sums, prediction of the last exit that learns, int32 [B, H, W])."""
        label, by_label, by_teacher = self._targets(batch)
        teacher = jax.lax.stop_gradient(resize_bilinear(outputs.logits, label.shape[1:3]))
        if self.kind == PFD:
            by_label = by_label * kept_pixels(teacher, label)
        totals = {name: jnp.zeros(()) for name in ("label", "teacher")}
        names = self.names or tuple(outputs.exits)
        for name in names:
            logits = resize_bilinear(outputs.exits[name], label.shape[1:3])
            one = distillation(logits, teacher, label, by_label, by_teacher)
            totals = {k: totals[k] + v for k, v in zip(totals, one, strict=True)}
        totals["kept"] = jnp.sum(by_label)
        last = jax.lax.stop_gradient(outputs.exits[names[-1]])
        return totals, best_class(resize_bilinear(last, batch["label"].shape[1:3]))

    def pooled(self, totals: dict[str, Array], counts: dict[str, Array]) -> tuple[Array, Array]:
        """(sum, count) with the count of valid pixels."""
        of_labels, of_teacher = self.shares
        pixels = counts["label"] if self.normalise == VALID else totals["kept"]
        value = of_labels * losses.mean(totals["label"], pixels)
        value += of_teacher * losses.mean(totals["teacher"], counts["teacher"])
        return value * counts["label"], counts["label"]

    def logged(self, totals: dict[str, Array], counts: dict[str, Array]) -> dict[str, Array]:
        """`loss_sum` and `loss_count` of the whole, and of its two parts; the share of pixels kept."""
        total, count = self.pooled(totals, counts)
        sums = {"loss_sum": total, "loss_count": count}
        sums |= {f"loss_sum/{name}": totals[name] for name in ("label", "teacher", "kept")}
        denominators = {"label": "label", "teacher": "teacher", "kept": "label"}
        return sums | {f"loss_count/{name}": counts[n] for name, n in denominators.items()}

    def _targets(self, batch: Batch) -> tuple[Array, Array, Array]:
        """Labels of the rows and columns that count, and the weights of their pixels for both parts."""
        first, step = self.label_stride // 2, self.label_stride
        label, image = batch["label"][:, first::step, first::step], batch["weight"]
        weights = functools.partial(
            losses.pixel_weights, label, image, per_image=self.base.per_image
        )
        return label, weights(class_weights=self.base.class_weights), weights()


# --- What happens on entering a stage ---

OnEnter = Callable[[Arch, TrainState], tuple[Arch, TrainState]]


def _then(first: OnEnter | None, second: OnEnter) -> OnEnter:
    return second if first is None else lambda arch, state: second(*first(arch, state))


def _settle(arch: Arch, state: TrainState) -> tuple[Arch, TrainState]:
    """What is frozen from now on is what will be deployed: the average of the weights, where one is kept."""
    if state.ema is None:
        return arch, state
    settled = jax.tree.map(jnp.copy, state.ema)
    return arch, state.replace(params=settled["params"], batch_stats=settled["batch_stats"])


def _entering(
    settings: Settings, plan: TrainPlan, designs: Sequence[ExitDesign], *, go_on: bool = False
) -> OnEnter:
    """Puts heads of `designs` in the place of all exits: fresh ones, or to `go_on` those that were there already."""

    def on_enter(arch: Arch, state: TrainState) -> tuple[Arch, TrainState]:
        places = settings.places(arch, plan.size_px)
        new = mess.with_exits(arch, places, designs, width=settings.width, dropout=settings.dropout)
        heads = fresh_heads(new, np.asarray(jax.device_get(state.key)))
        old = {head: f"exit_{i}" for i, head in enumerate(arch.exits)}
        stays = {f"exit_{i}": old[x] for i, x in enumerate(new.exits) if go_on and x in old}

        def exchanged(tree: dict[str, Any], kind: str) -> dict[str, Any]:
            kept = {name: value for name, value in tree.items() if name not in old.values()}
            kept |= jax.tree.map(jnp.array, heads[kind])
            return kept | {now: tree[before] for now, before in stays.items() if before in tree}

        state = state.replace(
            params=exchanged(state.params, "params"),
            batch_stats=exchanged(state.batch_stats, "batch_stats"),
        )
        if state.ema is not None:
            state = state.replace(
                ema={kind: exchanged(tree, kind) for kind, tree in state.ema.items()}
            )
        return new, state

    return on_enter


def fresh_heads(arch: Arch, key: np.ndarray) -> dict[str, dict[str, Any]]:
    """Random variables {'params', 'batch_stats'} of all exits of `arch`.

    A head's numbers depend on `key` and on the head, not on its place or on the others: trained alone or with others,
    it starts from the same weights. On the host, where a new shape needs no compiling.

    Args:
        arch: with exits.
        key: uint32 [2].
    """
    made: dict[str, dict[str, Any]] = {"params": {}, "batch_stats": {}}
    heads = [spec for spec in zoo.blocks(arch) if spec.role == "exit"]
    for spec, head in zip(heads, arch.exits, strict=True):
        rng = np.random.default_rng([*map(int, key), zlib.crc32(repr(head).encode())])
        for layer in spec.layers:
            normal = rng.standard_normal(layer.kernel_shape, np.float32)
            for kind, value in zip(made, initial(layer, normal, arch.numbers), strict=True):
                if value:
                    made[kind].setdefault(spec.name, {})[layer.name] = value
    return made
