"""Saved predictions are read back as they were, in the precision of the model that made them."""

from __future__ import annotations

import pytest
import torch

import kd
from kd.models.inference import Predictions, predict
from tests.conftest import tiny_model


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_predictions_of_either_precision_are_read_back(dtype: torch.dtype, digits: kd.ImageDataset) -> None:
    batches = [(digits[row][0][None].to(dtype), torch.tensor([digits[row][1]])) for row in range(3)]
    predictions = predict(tiny_model().to(dtype), batches)
    assert predictions.logits.dtype == dtype
    read = Predictions.from_state(predictions._asdict())
    assert torch.equal(read.logits, predictions.logits)
    assert read.logits.dtype == dtype


@pytest.mark.parametrize("dtype", [torch.float16, torch.int64])
def test_saved_logits_of_another_precision_are_refused(dtype: torch.dtype) -> None:
    with pytest.raises(ValueError, match="float32 or float64"):
        Predictions.from_state({"logits": torch.zeros(2, 3, dtype=dtype), "labels": torch.zeros(2).long()})
