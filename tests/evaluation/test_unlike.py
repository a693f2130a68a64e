"""The threshold for inputs unlike the training data."""

from __future__ import annotations

import json

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from kd.data.datasets import ArrayDataset
from kd.evaluation.unlike import SHARE, Unlike, collect_moments, measure_moments, measure_unlike, score_logits


@given(st.integers(1, 500), st.integers(1, 200), st.integers(0, 1000))
def test_at_most_the_share_of_the_validation_samples_is_below_the_threshold(
    validation: int, test: int, seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(validation, 3, generator=generator), torch.randn(test, 3, generator=generator)
    unlike = measure_unlike(*logits)
    below = [int(unlike.flag(score_logits(part), None).sum()) for part in logits]
    assert below[0] == int(SHARE * validation)
    assert (below[1], test) == (unlike.false_alarms, unlike.n)
    assert 0 <= unlike.false_alarm_rate_low_95 <= unlike.false_alarm_rate <= unlike.false_alarm_rate_high_95 <= 1


@given(st.integers(1, 60), st.integers(1, 60), st.integers(0, 1000))
def test_no_validation_input_is_outside_their_range(validation: int, test: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    inputs = [torch.randn(count, 2, 3, generator=generator) for count in (validation, test)]
    logits = [torch.zeros(count, 3) for count in (validation, test)]  # no score is below the threshold
    moments = [measure_moments(part) for part in inputs]
    unlike = measure_unlike(*logits, *moments)
    assert not unlike.flag(score_logits(logits[0]), moments[0]).any()
    assert int(unlike.flag(score_logits(logits[1]), moments[1]).sum()) == unlike.false_alarms
    for changed in (inputs[0] + 100, inputs[0] * 100):
        assert unlike.flag(score_logits(logits[0]), measure_moments(changed)).all()


def test_moments_are_those_of_each_input_and_tokens_have_none() -> None:
    inputs = torch.tensor([[[3.0, -1.0]], [[2.0, 2.0]]])
    assert measure_moments(inputs).tolist() == [[1, pytest.approx(5**0.5)], [2, 2]]  # type: ignore[union-attr]
    dataset = ArrayDataset(inputs, torch.zeros(2, dtype=torch.int64), mean=1.0, std=2.0)
    assert collect_moments(dataset).tolist() == [[0, 1], [0.5, 0.5]]  # type: ignore[union-attr]
    assert measure_moments(torch.ones(2, 3, dtype=torch.int64)) is None


def test_the_score_of_probable_classes_is_higher() -> None:
    assert score_logits(torch.tensor([[0.0, 9.0], [1.0, 2.0]])).tolist() == [9, 2]


def test_an_entry_survives_json_and_a_damaged_one_is_refused() -> None:
    unlike = measure_unlike(torch.eye(3), torch.eye(3))
    entry = json.loads(json.dumps(unlike._asdict()))
    assert Unlike.from_json(entry) == unlike
    large = Unlike.from_json(entry | {"threshold": 10**30})  # torch compares no integer of this size
    assert large.flag(torch.zeros(2), None).all()
    ranged = measure_unlike(torch.eye(3), torch.eye(3), torch.rand(3, 2), torch.rand(3, 2))
    assert Unlike.from_json(json.loads(json.dumps(ranged._asdict()))) == ranged
    with pytest.raises(ValueError, match="'unlike' must have"):
        Unlike.from_json(ranged._asdict() | {"mean_low": None})
    changes = [{"threshold": None}, {"threshold": float("nan")}, {"n": "10"}, {"score": "energy"}, {"more": 1}]
    for change in [*changes, {"n": True}]:
        with pytest.raises(ValueError, match="'unlike' must have the numbers threshold"):
            Unlike.from_json(entry | change)
