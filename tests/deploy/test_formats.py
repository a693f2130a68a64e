"""Networks that the exporters refuse: the error names the cause in the network, and the change that mends it."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn

from kd.deploy.deployed import Deployed
from kd.deploy.formats import ConversionError, to_onnx, to_pt2
from kd.deploy.manifest import Preprocessing
from kd.deploy.runtime import RuntimeFailure, run_in_new_process


class Branching(nn.Linear):
    def forward(self, inputs: Tensor) -> Tensor:
        output = super().forward(inputs)
        return output * 2 if output.sum() > 0 else output


class FixedBatch(nn.Linear):
    def forward(self, inputs: Tensor) -> Tensor:
        return super().forward(inputs.reshape(int(inputs.shape[0]), -1))


def deployed(network: nn.Module) -> Deployed:
    return Deployed(network, Preprocessing(1, (), ()), (4,))


@pytest.mark.parametrize("convert", [to_pt2, pytest.param(to_onnx, marks=pytest.mark.slow)])
def test_a_branch_on_values_is_named_with_its_remedy(convert: Callable[[Deployed, Tensor], bytes]) -> None:
    if convert is to_onnx:
        pytest.importorskip("onnxscript", reason="needs the export extra")
        pytest.importorskip("onnxruntime", reason="needs the export extra")
    with pytest.raises(ConversionError, match=r"DataDependent.*branches on values of its inputs.*torch.where$"):
        convert(deployed(Branching(4, 2)), torch.randn(2, 4))


def test_a_fixed_size_of_the_batch_is_named_with_its_remedy() -> None:
    with pytest.raises(ConversionError, match=r"fixes the size of the batch.*x\.flatten\(1\)$"):
        to_pt2(deployed(FixedBatch(4, 2)), torch.randn(2, 4))


def test_a_failure_of_a_runtime_is_reported_from_its_first_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    error = "Traceback (most recent call last):\n  File x\nort.InvalidArgument: invalid input\n Got: 80\n Please fix."
    result = SimpleNamespace(returncode=1, stderr=error)
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: result)
    for text, reason in ((error, "ort.InvalidArgument: invalid input Got: 80"), ("", "exit status 1")):
        result.stderr = text
        with pytest.raises(RuntimeFailure, match=reason):
            run_in_new_process(tmp_path, "onnx", "model.onnx", "0", tmp_path / "inputs.npy", threads=1)
