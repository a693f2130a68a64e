"""The threshold for inputs unlike the training data."""

from __future__ import annotations

import json

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from kd.evaluation.unlike import SHARE, Unlike, measure_unlike, score_logits


@given(st.integers(1, 500), st.integers(1, 200), st.integers(0, 1000))
def test_at_most_the_share_of_the_validation_samples_is_below_the_threshold(
    validation: int, test: int, seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(validation, 3, generator=generator), torch.randn(test, 3, generator=generator)
    unlike = measure_unlike(*logits)
    below = [sum(unlike.contains(score) for score in score_logits(part).tolist()) for part in logits]
    assert below[0] == int(SHARE * validation)
    assert (below[1], test) == (unlike.false_alarms, unlike.n)
    assert 0 <= unlike.false_alarm_rate_low_95 <= unlike.false_alarm_rate <= unlike.false_alarm_rate_high_95 <= 1


def test_the_score_of_probable_classes_is_higher() -> None:
    assert score_logits(torch.tensor([[0.0, 9.0], [1.0, 2.0]])).tolist() == [9, 2]


def test_an_entry_survives_json_and_a_damaged_one_is_refused() -> None:
    unlike = measure_unlike(torch.eye(3), torch.eye(3))
    entry = json.loads(json.dumps(unlike._asdict()))
    assert Unlike.from_json(entry) == unlike
    changes = [{"threshold": None}, {"threshold": float("nan")}, {"n": "10"}, {"score": "energy"}, {"more": 1}]
    for change in [*changes, {"n": True}]:
        with pytest.raises(ValueError, match="'unlike' must have the numbers threshold"):
            Unlike.from_json(entry | change)
