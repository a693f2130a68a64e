"""Models with several outputs: one rule chooses the logits, in training and evaluation, and ambiguity is an error."""

from __future__ import annotations

import copy
import pickle
import warnings
from collections import OrderedDict
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn
from torchvision.models import googlenet

import kd
from kd.data.datasets import ArrayDataset
from kd.models.build import build
from kd.models.main_output import return_logits, take_logits
from kd.teachers.load import teacher_accuracy
from kd.training.trial import try_training

LOGITS, FEATURES, MAPS = torch.randn(4, 3), torch.randn(4, 8), torch.randn(4, 2, 5, 5)


class Fields(NamedTuple):
    logits: Tensor
    aux: Tensor


class Attribute:
    logits = LOGITS


@pytest.mark.parametrize(
    "output",
    [
        LOGITS,
        {"logits": LOGITS, "aux": LOGITS + 1},
        OrderedDict(loss=torch.tensor(0.5), logits=LOGITS, hidden_states=(FEATURES,)),
        Fields(LOGITS, LOGITS + 1),
        Attribute(),
        (LOGITS,),
        (LOGITS, MAPS),
        [LOGITS, None, "text"],
        {"scores": LOGITS, "maps": MAPS, "labels": torch.zeros(4, 3, dtype=torch.int64)},
    ],
)
def test_the_logits_are_found(output: Any) -> None:
    assert take_logits(output) is LOGITS


@pytest.mark.parametrize("output", [(LOGITS, FEATURES), (FEATURES, LOGITS), {"embedding": FEATURES, "scores": LOGITS}])
def test_the_number_of_classes_decides(output: Any) -> None:
    assert take_logits(output, 3) is LOGITS
    with pytest.raises(ValueError, match=r"\[4, 3\].*: several of these could be the logits. Return the logits alone"):
        take_logits(output)


@pytest.mark.parametrize(
    ("output", "got"),
    [
        ((LOGITS, LOGITS + 1), r"Got 0 \[4, 3\], 1 \[4, 3\]: several"),
        ({"a": LOGITS, "b": LOGITS}, r"Got a \[4, 3\], b \[4, 3\]: several"),
        ({"maps": MAPS}, r"Got maps \[4, 2, 5, 5\]: none of these can be"),
        (None, "Got a NoneType: none"),
        ({}, "Got a dict: none"),
    ],
)
def test_ambiguous_outputs_are_refused(output: Any, got: str) -> None:
    with pytest.raises(ValueError, match=got):
        take_logits(output, 3)


class Several(nn.Module):
    """In training the logits and those of an auxiliary head, as torchvision's GoogLeNet; a dictionary otherwise."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.head, self.aux = nn.Linear(6, 8), nn.Linear(8, 3), nn.Linear(8, 3)

    def forward(self, inputs: Tensor) -> Any:
        features = self.body(inputs.flatten(1)).relu()
        if self.training:
            return Fields(self.head(features), self.aux(features))
        return {"features": features, "logits": self.head(features)}


def make_data() -> ArrayDataset:
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(32, 6, generator=generator)
    return ArrayDataset(inputs, inputs[:, :3].argmax(dim=1))


def test_its_names_copies_and_pickles_stay_and_return_logits(capsys: pytest.CaptureFixture[str]) -> None:
    plain, inputs = Several(), torch.randn(2, 6)
    model = return_logits(copy.deepcopy(plain), classes=3)
    assert model.state_dict().keys() == plain.state_dict().keys()
    for instance in (model, copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert torch.equal(instance.train()(inputs), plain.train()(inputs).logits)
        assert torch.equal(instance.eval()(inputs), plain.eval()(inputs)["logits"])
    assert capsys.readouterr().out.count("Several: output 'logits' is taken as its logits; 'aux' not used") <= 1


def test_fit_and_cached_logits_take_models_with_several_outputs() -> None:
    data, trained, start = make_data(), [], Several()
    for model in (copy.deepcopy(start), return_logits(copy.deepcopy(start), classes=3)):
        loader = kd.make_loader(data, batch_size=8, shuffle=True)
        optimizer = torch.optim.Adam(model.parameters())
        kd.fit(model, kd.supervised, loader, loader, optimizer=optimizer, epochs=1, seed=0)
        trained.append(model)
    assert torch.equal(trained[0].head.weight, trained[1].head.weight)
    cached = kd.collect_logits(trained[0], data)
    kd.verify_logits(trained[0], data, cached)
    assert torch.equal(cached.logits, kd.collect_logits(trained[1], data).logits)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # its accuracy is at chance level
        assert teacher_accuracy(trained[0], data).accuracy >= 0
    student, distill_data = nn.Linear(6, 3), kd.DistillDataset(data, cached.logits)
    loader = kd.make_loader(distill_data, batch_size=8, shuffle=True)
    cached_objective = kd.distilled(temperature=2, alpha=0.5)
    for objective in (cached_objective, kd.live_teacher(trained[0], cached_objective)):
        optimizer = torch.optim.Adam(student.parameters())
        kd.fit(student, objective, loader, None, optimizer=optimizer, epochs=1, seed=0)


CODE = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self, input_shape, classes):
        super().__init__()
        self.body, self.head = nn.Linear(6, 8), nn.Linear(8, classes)
    def forward(self, x):
        features = self.body(x.flatten(1)).relu()
        return KIND

def googlenet(input_shape, classes):
    from torchvision.models import googlenet
    return googlenet(num_classes=classes, init_weights=False)
"""


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        ("(features, self.head(features))", "output '1' is taken as its logits; '0' not used"),
        ("{'x': self.head(features), 'maps': features[:, :, None]}", "output 'x' is taken as its logits; 'maps'"),
        ("self.head(features)", ""),
    ],
)
def test_a_users_file_may_return_several_outputs(
    tmp_path: Path, kind: str, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "net.py").write_text(CODE.replace("KIND", kind))
    model = build(f"{tmp_path / 'net.py'}:Net", input_shape=(6,), classes=3, seed=0)
    assert model(torch.randn(2, 6)).shape == (2, 3)
    printed = " ".join(capsys.readouterr().out.split())
    assert said in printed
    assert ("taken as its logits" in printed) == bool(said)


def test_an_ambiguous_users_file_is_refused_before_training(tmp_path: Path) -> None:
    (tmp_path / "net.py").write_text(CODE.replace("KIND", "(self.head(features), self.head(features))"))
    with pytest.raises(ValueError, match=r"several of these could be the logits"):
        build(f"{tmp_path / 'net.py'}:Net", input_shape=(6,), classes=3, seed=0)


@pytest.mark.slow
def test_auxiliary_heads_of_torchvision_in_training_mode(tmp_path: Path) -> None:
    (tmp_path / "net.py").write_text(CODE.replace("KIND", "None"))
    model = build(f"{tmp_path / 'net.py'}:googlenet", input_shape=(3, 64, 64), classes=4, seed=0)
    batch = torch.randn(2, 3, 64, 64), torch.tensor([0, 1])
    assert try_training("googlenet", model, batch)(batch[0]).shape == (2, 4)
    assert googlenet(num_classes=4, init_weights=False).train()(batch[0]).logits.shape == (2, 4)
