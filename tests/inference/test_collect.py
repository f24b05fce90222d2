"""The evidence of a search is what the network does; the parts that it adds up are those that run."""

import jax
import numpy as np
import pytest

from jaxseg.inference.collect import collect, head_names
from jaxseg.inference.exits import MEAN as MEAN_CONFIDENCE
from jaxseg.inference.exits import Policy, image_confidence
from jaxseg.inference.labelling import labels_at
from jaxseg.inference.part_times import measure_parts
from jaxseg.inference.search import ANYTIME, BUDGETED, FINAL, INPUT, Search
from jaxseg.layers.normalise import normalise
from jaxseg.models import mess, zoo
from jaxseg.models.mess import ExitDesign
from jaxseg.types import IGNORE_LABEL
from tests.models.test_zoo import K, filled

MEAN, STD = (0.5,) * 3, (0.25,) * 3
SIZE = (32, 48)
PIXEL = (0.5, 0.99)


@pytest.fixture(scope="module")
def network():
    plain = zoo.named("deeplabv3plus_resnet18", K, width=0.125)
    designs = (ExitDesign(4), ExitDesign(2, 1))
    arch = mess.with_exits(plain, ("block_03", "block_06"), designs)
    return arch, filled(arch)


@pytest.fixture(scope="module")
def batches():
    rng = np.random.default_rng(0)
    made = []
    for real in (3, 1):
        label = rng.integers(0, K, (3, *SIZE)).astype(np.uint8)
        label[:, :4] = IGNORE_LABEL
        weight = (np.arange(3) < real).astype(np.float32)
        image = rng.integers(0, 256, (3, *SIZE, 3), np.uint8)
        made.append({"image": image, "label": label, "weight": weight})
    return made


@pytest.mark.parametrize("policy", [Policy(), Policy(measure=MEAN_CONFIDENCE)])
def test_evidence_is_what_every_head_does(network, batches, policy):
    arch, variables = network
    evidence = collect(arch, variables, MEAN, STD, batches, policy=policy, pixel=PIXEL)
    outputs_of = jax.jit(
        lambda image: zoo.module(arch).apply(variables, normalise(image, MEAN, STD, np.float32))
    )
    seen = 0
    for batch in batches:
        outputs = outputs_of(batch["image"])
        logits = [*(outputs.exits[f"exit_{i}"] for i in range(4)), outputs.logits]
        for m in range(int(batch["weight"].sum())):
            truth = batch["label"][m]
            for h, scores in enumerate(logits):
                found = np.asarray(labels_at(scores, SIZE))[m]
                for k in range(K):
                    true, said = truth == k, (found == k) & (truth != IGNORE_LABEL)
                    assert evidence.hit[h, seen, k] == (true & said).sum()
                    assert evidence.union[h, seen, k] == (true | said).sum()
                if h < 4:
                    sure = [image_confidence(scores, policy, p)[m] for p in evidence.pixel]
                    np.testing.assert_allclose(evidence.confidence[h, :, seen], sure, atol=0.02)
            seen += 1
    assert evidence.hit.shape == (5, 4, K) and seen == 4
    assert evidence.point == (3, 3, 6, 6, 9) and head_names(arch)[-1] == "head"
    assert evidence.pixel == (PIXEL if policy.measure != MEAN_CONFIDENCE else (0.0,))


def test_parts_add_up_to_paths(network, batches):
    arch, variables = network
    times = measure_parts(arch, variables, MEAN, STD, SIZE, Policy(), rounds=3)
    assert len(times.backbone) == len(times.score) == len(times.decide) == len(times.label) == 5
    assert times.backbone[0] == times.backbone[1] <= times.backbone[2] <= times.backbone[4]
    final = times.backbone[4] + times.score[4] + times.label[4]
    assert times.path((4,), 0, FINAL) == final
    assert times.path((1,), 0, BUDGETED) == times.backbone[1] + times.score[1] + times.label[1]
    gate = times.score[0] + times.decide[0]
    assert times.path((0, 4), 0, INPUT) == pytest.approx(times.backbone[0] + gate + times.label[0])
    assert times.path((0, 4), 1, INPUT) == pytest.approx(final + gate)
    both = times.score[0] + times.label[0]
    assert times.path((0, 4), 1, ANYTIME) == pytest.approx(final + both)
    evidence = collect(arch, variables, MEAN, STD, batches, policy=Policy(), pixel=PIXEL)
    found = Search(evidence, times.path, image=(0.0, 0.5, 1.01)).best(min_miou=0.0)
    assert found.setting in (BUDGETED, FINAL, INPUT)
