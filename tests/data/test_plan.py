"""Plans are pure functions of the batch number."""

from multiprocessing.reduction import ForkingPickler

import numpy as np
import pytest

from jaxseg.data.plan import EvalPlan, TrainPlan
from jaxseg.errors import UserError


def test_an_epoch_shows_every_example_at_most_once():
    plan = TrainPlan(23, 5, seed=3, size_px=(8, 8))
    assert plan.steps_per_epoch == 4
    left_out = set()
    for epoch in range(60):
        batches = [plan.at(4 * epoch + i) for i in range(4)]
        rows = np.concatenate([b.indices for b in batches])
        assert len(set(rows.tolist())) == 20 and rows.min() >= 0 and rows.max() < 23
        assert rows.dtype == np.int32
        assert [b.epoch for b in batches] == [epoch] * 4
        assert [b.step for b in batches] == list(range(4 * epoch, 4 * epoch + 4))
        left_out |= set(range(23)) - set(rows.tolist())
    # Shuffling changes which examples are left out: in the end each has been, and none for good.
    assert left_out == set(range(23))


def test_a_batch_depends_on_its_number_only():
    forward = [TrainPlan(23, 5, 3, (8, 8)).at(i).indices for i in range(30)]
    plan = ForkingPickler.loads(ForkingPickler.dumps(TrainPlan(23, 5, 3, (8, 8))))
    for i in (29, 3, 17, 0):
        np.testing.assert_array_equal(plan.at(i).indices, forward[i])
    other = TrainPlan(23, 5, 4, (8, 8))
    assert any((other.at(i).indices != forward[i]).any() for i in range(4))
    assert any((forward[i] != forward[i + 4]).any() for i in range(4))


def test_a_small_set_is_repeated_evenly():
    plan = TrainPlan(3, 8, 0, (8, 8))
    assert plan.steps_per_epoch == 1
    for step in range(10):
        counts = np.bincount(plan.at(step).indices, minlength=3)
        assert counts.sum() == 8 and set(counts.tolist()) <= {2, 3}
    assert len(TrainPlan(1, 4, 0, (8, 8)).at(7).indices) == 4


def test_a_method_may_replace_the_epochs():
    class Small(TrainPlan):
        def epoch_batches(self, epoch):
            return [b._replace(size_px=(4 + epoch, 4)) for b in super().epoch_batches(epoch)]

    plan = Small(8, 4, 0, (8, 8))
    assert [plan.at(i).size_px for i in range(4)] == [(4, 4), (4, 4), (5, 4), (5, 4)]
    # The cache of epochs tells a plan from another class with equal values.
    assert TrainPlan(8, 4, 0, (8, 8)).at(0).size_px == (8, 8)


@pytest.mark.parametrize("bad", [(0, 4, 0), (4, 0, 0), (4, 4, -1)])
def test_impossible_plans_are_refused(bad):
    with pytest.raises(UserError, match="training plan"):
        TrainPlan(*bad, (8, 8))


def test_evaluation_keeps_one_size():
    plan = EvalPlan(np.tile([[33, 47]], (7, 1)), 3)
    assert len(plan) == 3
    assert [plan.at(i).size_px for i in range(3)] == [(33, 47)] * 3
    rows = [plan.at(i).indices.tolist() for i in range(3)]
    assert rows == [[0, 1, 2], [3, 4, 5], [6, -1, -1]]


def test_evaluation_groups_padded_sizes():
    sizes = [(33, 47), (64, 64), (40, 60), (32, 32), (64, 33), (64, 64)]
    plan = EvalPlan(np.array(sizes), 2)
    seen = []
    for i in range(len(plan)):
        batch = plan.at(i)
        assert batch.step == i and len(batch.indices) == 2
        assert all(n % 32 == 0 for n in batch.size_px)
        for row in batch.indices[batch.indices >= 0]:
            assert all(0 <= p - s < 32 for p, s in zip(batch.size_px, sizes[row], strict=True))
            seen.append(int(row))
    assert sorted(seen) == list(range(6))
    assert len({plan.at(i).size_px for i in range(len(plan))}) == 2
    with pytest.raises(UserError, match="batch size"):
        EvalPlan(np.array(sizes), 0)
