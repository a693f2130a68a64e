"""Exported files agree with PyTorch in their own runtime, wrong ones are not kept, and infer.py needs little."""

from __future__ import annotations

import dataclasses
import json
import runpy
import subprocess
import sys
import types
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader

from kd import cli
from kd.commands.export import command
from kd.commands.export.settings import ExportSettings
from kd.data.datasets import ArrayDataset
from kd.data.loaders import make_loader
from kd.data.sources.normalisation import normalise
from kd.data.sources.table_columns import Column
from kd.data.sources.table_encoding import Encoding
from kd.deploy.deployed import Deployed
from kd.deploy.description import describe_task
from kd.deploy.export import Candidate, Exported, export
from kd.deploy.folder import publish_folder, require_own_folder, write_infer
from kd.deploy.formats import FILES, to_safetensors
from kd.deploy.gate import check_outputs
from kd.deploy.manifest import parse_manifest, read_manifest
from kd.deploy.model_card import Origin, write_card
from kd.deploy.runtime import Outputs
from kd.evaluation.two_models import Accuracy, accuracy_of
from kd.imports import MissingExtraError
from kd.models.build import build
from kd.models.inference import predict

Array = np.ndarray[Any, Any]
KINDS = tuple(FILES)
SHAPES = {"cnn:4": (3, 8, 8), "mlp:6": (5,)}


def a_candidate(spec: str, *, count: int = 60, seed: int = 0) -> Candidate:
    shape, generator = SHAPES[spec], torch.Generator().manual_seed(1)
    raw = torch.randint(0, 256, (count, *shape), generator=generator).to(torch.uint8)
    inputs = raw if len(shape) == 3 else raw.float() / 7
    data = ArrayDataset(inputs, torch.arange(count) % 3)
    train = normalise({"train": data})["train"]
    network = build(spec, input_shape=shape, classes=3, seed=seed)
    network(train[0][0][None].repeat(4, *[1] * len(shape)))  # running statistics of batch norm
    network.train(False)
    content = {"format": 1, "toy": None, "models": {}, **describe_task(train, ["a", "b", '<c>"'])}
    manifest = parse_manifest(Path(), content)
    return Candidate(network, manifest, spec, predict(network, make_loader(train, batch_size=16)), train, train)


def accuracy(candidate: Candidate) -> Accuracy:
    return accuracy_of(int(candidate.reference.wrong.sum()), len(candidate.reference.labels))


@pytest.mark.parametrize("spec", SHAPES)
def test_the_wrapped_network_takes_raw_inputs(spec: str) -> None:
    candidate = a_candidate(spec)
    assert isinstance(candidate.test, ArrayDataset)
    wrapped = Deployed(candidate.network, candidate.manifest.preprocessing, candidate.manifest.input_shape)
    probabilities, logits = wrapped(candidate.test.inputs)
    torch.testing.assert_close(logits, candidate.reference.logits, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(probabilities, logits.softmax(dim=1))


def test_the_wrapped_network_is_a_copy() -> None:
    candidate = a_candidate("mlp:6")
    candidate.network.train()
    wrapped = Deployed(candidate.network, candidate.manifest.preprocessing, (5,))
    assert not wrapped.network.training
    assert candidate.network.training
    assert all(parameter.requires_grad for parameter in candidate.network.parameters())


def test_the_weights_file_loads_into_the_network() -> None:
    pytest.importorskip("safetensors")
    from safetensors.torch import load

    network = nn.Sequential(nn.Linear(3, 2))
    state = load(to_safetensors(network))
    assert all(torch.equal(tensor, network.state_dict()[name]) for name, tensor in state.items())


def test_a_folder_with_other_files_is_refused(tmp_path: Path) -> None:
    require_own_folder(tmp_path / "new")
    require_own_folder(tmp_path)
    (tmp_path / "README.md").write_text("mine")
    with pytest.raises(ValueError, match="--to must be a new or empty folder"):
        require_own_folder(tmp_path)


@pytest.mark.parametrize(
    ("spec", "kept", "refused"),
    [
        ("cnn:4", (np.full((1, 3, 8, 8), 255), np.ones((1, 3, 8, 8))), (0.5, 256, -1, np.nan)),
        ("mlp:6", (np.full((1, 5), 0.1), np.full((1, 5), 7, np.uint8)), (1e300, np.nan)),
    ],
)
@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # of numpy, about the casts that are refused
def test_infer_refuses_inputs_that_its_type_would_change(
    spec: str, kept: tuple[Array, ...], refused: tuple[float, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake = types.ModuleType("onnxruntime")
    session = types.SimpleNamespace(run=lambda names, feeds: [feeds["inputs"]])
    fake.InferenceSession = lambda *_, **__: session  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "onnxruntime", fake)
    (tmp_path / "infer.py").write_text(write_infer(a_candidate(spec), "model.onnx"))
    (tmp_path / "labels.json").write_text("[]")
    infer = runpy.run_path(str(tmp_path / "infer.py"))["predict"]
    for values in kept:
        np.testing.assert_allclose(infer(values), values)
    for value in refused:
        with pytest.raises(ValueError, match="inputs must be"):
            infer(np.full_like(kept[0], value, dtype=float))


def an_export(candidate: Candidate) -> Exported:
    """Return a safetensors file without running it."""
    logits = candidate.reference.logits
    outputs = Outputs(logits.softmax(dim=1).numpy(), logits.numpy(), ())
    check = check_outputs(outputs, candidate.reference, size=3, margin=None)
    return Exported("safetensors", b"new", check, "")


def test_an_export_that_cannot_be_written_leaves_the_earlier_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    candidate, origin = a_candidate("mlp:6"), Origin("data", "distilled")
    publish_folder(tmp_path, candidate, [an_export(candidate)], origin, accuracy(candidate))
    (tmp_path / "model.onnx").write_bytes(b"earlier")
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}

    def fail(_: object) -> None:
        raise OSError("no space left")

    with monkeypatch.context() as patch:
        patch.setattr("kd.deploy.folder.publish", fail)
        with pytest.raises(OSError, match="no space left"):
            publish_folder(tmp_path, candidate, [an_export(candidate)], origin, accuracy(candidate))
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
    publish_folder(tmp_path, candidate, [an_export(candidate)], origin, accuracy(candidate))
    assert {path.name for path in tmp_path.iterdir()} == set(before) - {"model.onnx"}


def test_if_every_format_fails_the_earlier_export_is_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    candidate, origin = a_candidate("mlp:6"), Origin("data", "distilled")
    publish_folder(tmp_path, candidate, [an_export(candidate)], origin, accuracy(candidate))
    (tmp_path / "mine.txt").write_text("kept")
    failed = Exported("safetensors", None, None, "wrong")
    monkeypatch.setattr("kd.commands.export.command.load_candidate", lambda _: (candidate, origin))
    monkeypatch.setattr("kd.commands.export.command.export", lambda *_, **__: [failed])
    with pytest.raises(ValueError, match="1 of 1 files failed"):
        command.run(ExportSettings(to=tmp_path))
    assert [path.name for path in tmp_path.iterdir() if path.is_file()] == ["mine.txt"]


def test_the_card_states_what_the_folder_holds() -> None:
    candidate = dataclasses.replace(a_candidate("mlp:6"), architecture="my_net_v2.py:Net")
    exported, test = [an_export(candidate)], accuracy(candidate)
    card = write_card(candidate, exported, Origin("a\n# b", "model"), test, onnx=None)
    assert 'library_name: "pytorch"' in card
    assert "onnx" not in card.split("\n# ")[0].lower()
    assert "\n# my\\_net\\_v2.py:Net (model) for a \\# b\n" in card


def test_card_program_and_manifest_state_the_columns_of_a_table(tmp_path: Path) -> None:
    """Names are data: they stay text in the card, and out of the program."""
    candidate = a_candidate("mlp:6")
    height = Column('he`ig\nht"', "number", has_missing=True)
    colour = Column("colour", "category", levels=("blue", "red"), has_other=True)
    table = Encoding("class", (height, Column("id", "unused"), colour))
    candidate = dataclasses.replace(candidate, manifest=dataclasses.replace(candidate.manifest, table=table))
    publish_folder(tmp_path, candidate, [an_export(candidate)], Origin("rows.csv", "model"), accuracy(candidate))
    assert json.loads((tmp_path / "manifest.json").read_bytes())["inputs"] == {
        "shape": [2],
        "dtype": "float64",
        "columns": [{"name": height.name}, {"name": "colour", "levels": ["blue", "red"]}],
    }
    card = (tmp_path / "README.md").read_text()
    assert "Inputs are float64 [N, 2], raw" in card
    assert 'in this order: he\\`ig ht", colour (text). A missing value is NaN. A text column is a number' in card
    assert "shape than [2]" in card
    program = write_infer(candidate, "model.onnx")
    assert "# float64 [N, 2], columns as in README.md -> probabilities [N, 3]" in program
    assert "equal_nan=True" in program
    assert height.name not in program
    assert max(map(len, program.splitlines())) <= 120


def test_a_missing_library_is_named_with_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    candidate = a_candidate("mlp:6")
    with pytest.raises(MissingExtraError, match=r"kd export to ONNX needs onnx.*paired-distillation\[export\]"):
        export(candidate, ["onnx"])


@pytest.fixture(scope="module", params=SHAPES)
def exported(request: pytest.FixtureRequest) -> tuple[Candidate, list[Exported]]:
    pytest.importorskip("onnxscript")
    candidate = a_candidate(request.param)
    return candidate, export(candidate, KINDS, margin=10, calibration=20)


@pytest.mark.slow
def test_every_format_passes_its_gate(exported: tuple[Candidate, list[Exported]]) -> None:
    candidate, results = exported
    assert [(result.kind, result.problem) for result in results] == [(kind, "") for kind in KINDS]
    for result in results:
        assert result.check is not None
        assert result.content is not None
        assert [timing.batch for timing in result.check.timings] == [1, 128]
        assert str(Path(__file__).parents[2]).encode() not in result.content
        assert result.check.accuracy.images == len(candidate.reference.labels)


@pytest.mark.slow
def test_weights_changed_after_tracing_fail_the_gate(exported: tuple[Candidate, list[Exported]]) -> None:
    """The files are those of the network before a weight changed; the reference is that of the network after."""
    candidate, results = exported
    changed = build(candidate.architecture, input_shape=candidate.manifest.input_shape, classes=3, seed=0)
    changed.load_state_dict(candidate.network.state_dict())
    with torch.no_grad():
        list(changed.parameters())[-1][0] += 30  # the bias of class 0
    reference = predict(changed, DataLoader(candidate.test, batch_size=60))
    moved = dataclasses.replace(candidate, network=changed, reference=reference)
    files = {result.kind: result.content for result in results if result.content is not None}
    for result in export(moved, ("onnx", "safetensors"), converted=files):
        assert "its logits differ from PyTorch's by up to 3.0e+01" in result.problem


@pytest.mark.slow
def test_a_damaged_file_fails_and_does_not_stop_the_others(exported: tuple[Candidate, list[Exported]]) -> None:
    candidate, results = exported
    files = {result.kind: result.content or b"" for result in results}
    cut = {kind: files[kind][: len(files[kind]) // 2] for kind in ("int8", "pt2")}
    broken = export(candidate, ("int8", "pt2", "onnx"), margin=10, converted={**files, **cut})
    assert [result.kind for result in broken if result.problem] == [*cut]
    assert all(FILES[result.kind] in result.problem for result in broken if result.problem)


ALONE = """
import importlib.abc, runpy, sys

class Refuse(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        top = name.partition(".")[0]
        if top in {"torch", "kd", "onnx", "onnxscript", "safetensors", "scipy", "sklearn", "PIL"}:
            raise ImportError(f"refused: {name}")

sys.meta_path.insert(0, Refuse())
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


@pytest.mark.slow
def test_the_folder_is_complete_and_infer_runs_without_torch(
    exported: tuple[Candidate, list[Exported]], tmp_path: Path
) -> None:
    candidate, results = exported
    folder = tmp_path / "export"
    publish_folder(folder, candidate, results, Origin("data", "distilled"), accuracy(candidate))
    assert {path.name for path in folder.iterdir()} == {
        *FILES.values(), "labels.json", "manifest.json", "README.md", "infer.py"
    }  # fmt: skip
    manifest = read_manifest(folder)
    assert manifest.model("model.safetensors").architecture == candidate.architecture
    assert len((folder / "infer.py").read_text().splitlines()) <= 23
    assert isinstance(candidate.test, ArrayDataset)
    np.save(tmp_path / "inputs.npy", candidate.test.inputs.numpy())
    command = [sys.executable, "-I", "-c", ALONE, str(folder / "infer.py"), str(tmp_path / "inputs.npy")]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    expected = [candidate.manifest.classes[k] for k in candidate.reference.logits.argmax(dim=1).tolist()]
    assert [line.split("\t")[0] for line in done.stdout.splitlines()] == expected


@pytest.mark.slow
def test_a_file_that_fails_later_is_removed(exported: tuple[Candidate, list[Exported]], tmp_path: Path) -> None:
    candidate, results = exported
    folder, origin = tmp_path / "export", Origin("data", "distilled")
    publish_folder(folder, candidate, results, origin, accuracy(candidate))
    later = [dataclasses.replace(r, problem="wrong") if r.kind == "int8" else r for r in results]
    publish_folder(folder, candidate, later, origin, accuracy(candidate))
    assert not (folder / FILES["int8"]).exists()
    manifest = json.loads((folder / "manifest.json").read_bytes())
    assert manifest["failed"] == {"int8": "wrong"}
    assert FILES["int8"] not in manifest["models"]


@pytest.mark.slow
def test_the_command_exports_a_run_and_refuses_other_weights_and_data(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("onnxscript")
    out = tmp_path / "run"
    flags = ("--data", "sklearn:digits", "--teacher", "mlp:8", "--student", "mlp:4", "--epochs", "1", "--device", "cpu")
    assert cli.main(["run", *flags, "--out", str(out)]) == 0
    assert cli.main(["export", "--out", str(out), "--formats", "onnx"]) == 0
    assert "passed" in capsys.readouterr().out
    assert (out / "export" / "infer.py").is_file()
    file = out / "models" / "student_distilled.pth"
    assert cli.main(["export", "--model", f"mlp:4={file}", "--data", "sklearn:digits", "--formats", "safetensors",
                     "--to", str(tmp_path / "other")]) == 0  # fmt: skip
    capsys.readouterr()
    (out / "run.toml").unlink()
    assert cli.main(["export", "--out", str(out), "--formats", "onnx"]) == 1
    assert "the data differ from the run's data" in capsys.readouterr().err
    file.write_bytes((out / "models" / "student_regular.pth").read_bytes())
    assert cli.main(["export", "--out", str(out), "--data", "sklearn:digits"]) == 1
    assert "not the file that its manifest describes" in capsys.readouterr().err
