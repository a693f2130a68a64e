"""Checkpoints of training programs: read as they are, with a line on what was stripped; ambiguous ones are refused."""

from __future__ import annotations

import argparse
import codecs
import datetime
import functools
import os
import sys
import types
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import kd
from kd.models.build import build
from kd.storage.checkpoints import find_weights
from kd.storage.file_kind import DICTIONARIES
from kd.storage.weights import weights_bytes
from kd.teachers.load import load_teacher
from tests.storage.test_untrusted import Called

SHAPE, CLASSES = (3, 8, 8), 5
State = Mapping[str, Tensor]


def make_model(seed: int = 1) -> nn.Module:
    return build("cnn:4", input_shape=SHAPE, classes=CLASSES, seed=seed)


STATE: State = make_model().state_dict()
OTHER: State = make_model(seed=9).state_dict()


def prefixed(prefix: str, state: State = STATE) -> dict[str, Tensor]:
    return {f"{prefix}{name}": value for name, value in state.items()}


def train_a_step(model: nn.Module) -> torch.optim.Optimizer:
    optimizer = torch.optim.AdamW(model.parameters())
    model(torch.rand(4, *SHAPE)).sum().backward()
    optimizer.step()
    model.load_state_dict(STATE)
    return optimizer


def compiled_layers() -> dict[str, Tensor]:
    """Names of a model of which a single layer was compiled."""
    return {name.replace("layer2.", "layer2._orig_mod."): value for name, value in STATE.items()}


MODEL = make_model()
OPTIMIZER = train_a_step(MODEL)
AVERAGED = torch.optim.swa_utils.AveragedModel(MODEL).state_dict()
LIGHTNING = {
    "epoch": 9,
    "global_step": 100,
    "pytorch-lightning_version": "2.5.0",
    "state_dict": {**prefixed("model."), "loss.weight": torch.ones(5)},
    "loops": {"fit_loop": {"state_dict": {}}},
    "callbacks": {"ModelCheckpoint{'monitor': 'val_acc'}": {"best_model_score": torch.tensor(0.9), "dirpath": "runs"}},
    "optimizer_states": [OPTIMIZER.state_dict()],
    "lr_schedulers": [torch.optim.lr_scheduler.StepLR(OPTIMIZER, 3).state_dict()],
    "hparams_name": "kwargs",
    "hyper_parameters": {"lr": 0.1, "path": Path("data")},
}
TRAINERS = {"optimizer": OPTIMIZER.state_dict(), "epoch": 3, "best_acc": torch.tensor(0.9)}

# What the checkpoint holds, and the words that the line about it must have.
CHECKPOINTS: dict[str, tuple[Any, tuple[str, ...]]] = {
    "model": ({"model": STATE}, ("read the entry 'model'",)),
    "state_dict": ({"state_dict": STATE, **TRAINERS}, ("'state_dict'", "ignored optimizer, epoch, best_acc")),
    "model_state_dict": ({"model_state_dict": STATE, "loss": 0.1}, ("'model_state_dict'", "ignored loss")),
    "two levels": ({"checkpoint": {"net": STATE, "step": 3}, "date": "today"}, ("'checkpoint.net'", "date, step")),
    "Lightning": (LIGHTNING, ("'state_dict'", "removed 'model.'", "epoch", "hyper_parameters", "loss.weight")),
    "DistributedDataParallel": (prefixed("module."), ("removed 'module.' from the names",)),
    "torch.compile": (prefixed("_orig_mod."), ("removed '_orig_mod.'",)),
    "a compiled layer": (compiled_layers(), ("removed '_orig_mod.'",)),
    "compile of DDP": (prefixed("_orig_mod.module."), ("'module.' and '_orig_mod.'",)),
    "nested with prefix": ({"state_dict": prefixed("net.backbone.")}, ("removed 'net.backbone.'",)),
    "an averaged model": (AVERAGED, ("removed 'module.'", "ignored n_averaged")),
    "the average alone": ({"model_ema": AVERAGED, "epoch": 1}, ("'model_ema'", "n_averaged")),
    "weights among other values": ({**STATE, "epoch": 3, "optimizer": OPTIMIZER.state_dict()}, ("ignored epoch",)),
    "arguments": ({"model": STATE, "args": argparse.Namespace(lr=0.1, out=Path("a"))}, ("ignored args",)),
    "NumPy": ({"model": STATE, "best": np.float64(1), "curve": np.zeros(3)}, ("ignored best, curve",)),
    "settings with code": (
        {
            "model": STATE,
            "hyper_parameters": {"loss": nn.CrossEntropyLoss(), "kind": torch.optim.AdamW, "activation": F.relu},
            "scheduler": torch.optim.lr_scheduler.StepLR(OPTIMIZER, 3),
            "make": functools.partial(torch.optim.SGD, lr=0.1),
        },
        ("ignored hyper_parameters, scheduler, make",),
    ),
    "curves": ({"model": STATE, "curves": defaultdict(list, loss=[0.1])}, ("ignored curves",)),
    "a date": ({"model": STATE, "at": datetime.datetime(2026, 1, 1)}, ("ignored at",)),
    "parameters": ({name: nn.Parameter(t, False) for name, t in STATE.items()}, ()),
    "the same dictionary twice": ({"model": STATE, "state_dict": STATE}, ("'model'",)),
    "plain": (STATE, ()),
}


def read(path: Path, **options: Any) -> nn.Module:
    return load_teacher("cnn:4", path, input_shape=SHAPE, classes=CLASSES, **options)


def require_equal(model: nn.Module, state: State) -> None:
    for name, value in model.state_dict().items():
        assert value.dtype == state[name].dtype
        assert torch.equal(value, state[name]), name


@pytest.mark.parametrize("name", CHECKPOINTS)
def test_a_checkpoint_is_read_bit_by_bit(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    content, words = CHECKPOINTS[name]
    torch.save(content, tmp_path / "file.pth")
    require_equal(read(tmp_path / "file.pth"), STATE)
    line = " ".join(capsys.readouterr().out.split())
    assert all(word in line for word in words), line
    assert bool(line) == bool(words), "nothing was stripped"
    model = make_model(seed=3)
    kd.load_weights(model, tmp_path / "file.pth")
    require_equal(model, STATE)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_converted(dtype: torch.dtype, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    half = {name: value.to(dtype) if value.is_floating_point() else value for name, value in STATE.items()}
    torch.save({"state_dict": half}, tmp_path / "file.pth")
    model = read(tmp_path / "file.pth")
    require_equal(model, {name: half[name].to(value.dtype) for name, value in STATE.items()})
    assert f"converted from {str(dtype)[6:]} to float32" in " ".join(capsys.readouterr().out.split())


COUNTERS = [name for name in STATE if name.endswith("num_batches_tracked")]


@pytest.mark.parametrize("missing", [COUNTERS, COUNTERS[:1]])
@pytest.mark.parametrize("prefix", ["", "module."])
def test_missing_counters_of_batches_are_0(
    missing: list[str], prefix: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    trained = {name: value + 7 if name in COUNTERS else value for name, value in STATE.items()}
    content = prefixed(prefix, {name: value for name, value in trained.items() if name not in missing})
    torch.save(content, tmp_path / "file.pth")
    require_equal(read(tmp_path / "file.pth"), {**trained, **{name: torch.tensor(0) for name in missing}})
    assert f"set {len(missing)} missing num_batches_tracked to 0" in " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize("change", ["other tensor", "a missing weight"])
def test_other_names_are_refused_without_counters_too(change: str, tmp_path: Path) -> None:
    state = {name: value for name, value in STATE.items() if name not in COUNTERS}
    if change == "other tensor":
        state["other"] = torch.zeros(())
    else:
        del state[next(name for name in state if name.endswith("running_mean"))]
    torch.save(state, tmp_path / "file.pth")
    with pytest.raises(ValueError, match=r"it (also has|lacks) \['(layer1\.1\.running_mean|other)'\]"):
        read(tmp_path / "file.pth")


def test_prefixes_are_removed_from_safetensors(tmp_path: Path) -> None:
    safetensors = pytest.importorskip("safetensors.torch", reason="needs the safetensors extra")
    safetensors.save_file({n: t.contiguous() for n, t in prefixed("module.").items()}, tmp_path / "file.safetensors")
    require_equal(read(tmp_path / "file.safetensors"), STATE)


words = st.text("abcdefghij_0123456789", min_size=1, max_size=8)
plain = st.none() | st.integers() | st.floats() | words | st.lists(st.integers(), max_size=3)
extras = st.dictionaries(words | st.integers(), plain | st.dictionaries(words, plain, max_size=3), max_size=4)


@given(prefix=st.lists(words, max_size=3), keys=st.lists(words, max_size=3), others=st.lists(extras, min_size=4))
@settings(max_examples=60, deadline=None)
def test_any_prefix_and_nesting_is_removed(prefix: list[str], keys: list[str], others: list[dict[Any, Any]]) -> None:
    content: Any = {**others[0], **prefixed("".join(f"{part}." for part in prefix))}
    for key, other in zip(keys, others[1:], strict=False):
        content = {**other, key: content}
    found = find_weights(content, STATE)
    assert list(found.state) == list(STATE)
    assert all(found.state[name] is value for name, value in STATE.items())


AMBIGUOUS: dict[str, tuple[Any, dict[str, State]]] = {
    "timm's average": (
        {"state_dict": STATE, "state_dict_ema": OTHER, "args": argparse.Namespace()},
        {"state_dict": STATE, "state_dict_ema": OTHER},
    ),
    "torchvision's average": (
        {"model": STATE, "model_ema": {"n_averaged": torch.tensor(3), **prefixed("module.", OTHER)}},
        {"model": STATE, "model_ema.module": OTHER, "model_ema": OTHER},
    ),
    "a distillation": (
        {"state_dict": {**prefixed("teacher."), **prefixed("student.", OTHER)}},
        {"state_dict.teacher": STATE, "state_dict.student": OTHER},
    ),
    "names with and without prefix": ({**STATE, **prefixed("ema.", OTHER)}, {".": STATE, "ema": OTHER}),
    "a callback's average": (
        {"state_dict": prefixed("model."), "callbacks": {"EMA": {"shadow": OTHER}}},
        {"state_dict": STATE, "callbacks.EMA.shadow": OTHER},
    ),
}


@pytest.mark.parametrize("name", AMBIGUOUS)
def test_several_weights_are_refused_unless_named(name: str, tmp_path: Path) -> None:
    content, named = AMBIGUOUS[name]
    torch.save(content, tmp_path / "file.pth")
    with pytest.raises(
        ValueError, match=r"it holds several weights that fit: .*FILE::.*The model was not changed"
    ) as e:
        read(tmp_path / "file.pth")
    assert all(f"'{entry}" in str(e.value) for entry in named)
    for entry, state in named.items():
        require_equal(read(tmp_path / "file.pth", entry=entry), state)
        model = make_model(seed=3)
        kd.load_weights(model, tmp_path / "file.pth", entry=entry)
        require_equal(model, state)
    with pytest.raises(ValueError, match=r"it has no weights named 'emas' that fit, only \["):
        read(tmp_path / "file.pth", entry="emas")


def test_the_shapes_decide_between_several_weights(tmp_path: Path) -> None:
    wide = build("cnn:8", input_shape=SHAPE, classes=CLASSES, seed=1).state_dict()
    torch.save({**prefixed("teacher.", wide), **prefixed("student.")}, tmp_path / "file.pth")
    require_equal(read(tmp_path / "file.pth"), STATE)


def test_unexpected_and_missing_entries_are_still_errors(tmp_path: Path) -> None:
    cases = {
        "in its entry 'model', it lacks ['output.bias']": {
            "model": {name: value for name, value in STATE.items() if name != "output.bias"}
        },
        "without the prefix 'module.', it also has ['more'], which this model lacks": {
            **prefixed("module."),
            "module.more": torch.zeros(1),
        },
        "it also has ['more'], which this model lacks": {**STATE, "more": torch.zeros(1)},
        "Got [5] of torch.float64. Save the tensors as torch.float32": {
            "model": {**STATE, "output.bias": STATE["output.bias"].double()}
        },
        "output.bias has values that are not finite": {"model": {**STATE, "output.bias": torch.full((5,), torch.nan)}},
        "output.bias should be [5] of torch.float32. Got Placeholder": {
            "model": {**STATE, "output.bias": argparse.Namespace()}
        },
        "its head has 7 classes, the data has 5": {
            "model": prefixed("module.", build("cnn:4", input_shape=SHAPE, classes=7, seed=1).state_dict())
        },
    }
    for message, content in cases.items():
        torch.save(content, tmp_path / "file.pth")
        with pytest.raises(ValueError) as error:  # noqa: PT011  # the message is compared below
            read(tmp_path / "file.pth")
        assert message in str(error.value)


class Payload:
    """An object that creates a folder when unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.path),)


class Arguments(argparse.Namespace):
    """A class of a user's program."""


@pytest.mark.parametrize("wrap", [lambda x: x, lambda x: argparse.Namespace(a=x), lambda x: [np.float64(1), x]])
def test_code_in_a_checkpoint_does_not_run(wrap: Any, tmp_path: Path) -> None:
    trace, path = tmp_path / "trace", tmp_path / "file.pth"
    torch.save({"model": STATE, "extra": wrap(Payload(trace))}, path)
    with pytest.raises(ValueError, match=r"file\.pth does not hold weights of a CNN"):
        read(path)
    assert not trace.exists()
    torch.load(path, weights_only=False)
    assert trace.exists(), "the payload has no effect, so this test proves nothing"


def test_a_class_of_a_users_program_is_named(tmp_path: Path) -> None:
    torch.save({"model": STATE, "args": Arguments()}, tmp_path / "file.pth")
    with pytest.raises(ValueError, match=r"it names tests\.storage\.test_checkpoints\.Arguments, code that would run"):
        read(tmp_path / "file.pth")


@pytest.mark.parametrize("name", DICTIONARIES)
def test_dictionaries_of_other_libraries_are_read(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module, _, kind = name.rpartition(".")
    fake: Any = types.ModuleType(module)
    setattr(fake, kind, type(kind, (dict,), {"__module__": module}))
    parts = module.split(".")
    for end in range(1, len(parts) + 1):
        monkeypatch.setitem(sys.modules, ".".join(parts[:end]), fake)
    settings = getattr(fake, kind)(lr=0.1, out=Path("runs"))
    settings.frozen = True  # becomes part of the pickled state
    torch.save({"model": getattr(fake, kind)(STATE), "hparams": settings}, tmp_path / "file.pth")
    monkeypatch.undo()
    require_equal(read(tmp_path / "file.pth"), STATE)


def test_a_placeholder_is_only_inserted_for_records(tmp_path: Path) -> None:
    """NumPy's pickles call ``_codecs.encode``, which can allocate much memory from a small file."""
    content = {"model": STATE, "best": np.float64(1), "more": Called(codecs.encode, "x" * 1000, "utf-8")}
    torch.save(content, tmp_path / "file.pth")
    require_equal(read(tmp_path / "file.pth"), STATE)  # none of these calls is made
    del content["best"]
    torch.save(content, tmp_path / "file.pth")
    with pytest.raises(ValueError, match="it would call _codecs encode, which tensors do not need"):
        read(tmp_path / "file.pth")


def test_a_checkpoint_may_be_several_times_the_models_size(tmp_path: Path) -> None:
    model = build("mlp:700", input_shape=(1, 28, 28), classes=10, seed=1)  # 2 MB, above the spare megabyte
    copies = {f"copy {number}": [value.clone() for value in model.state_dict().values()] for number in range(4)}
    torch.save({"model": model.state_dict(), **copies}, tmp_path / "file.pth")
    other = build("mlp:700", input_shape=(1, 28, 28), classes=10, seed=2)
    kd.load_weights(other, tmp_path / "file.pth")
    assert weights_bytes(other) == weights_bytes(model)


def test_names_with_many_dots_and_nested_dictionaries_take_no_time() -> None:
    deep: dict[str, Any] = {}
    for _ in range(1000):
        deep = {"a": deep, "b": deep}
    content = {"." * 50_000: torch.zeros(1), "deep": deep, "many": {str(n): {} for n in range(50_000)}}
    with pytest.raises(ValueError, match="it should hold"):
        find_weights(content, STATE)
