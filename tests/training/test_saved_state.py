"""State that was damaged, forged or edited ends in one paragraph that names the step: no traceback, no result."""

from __future__ import annotations

import copy
import io
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from kd import cli
from kd.seeding import generator_states
from kd.storage.files import sha256
from kd.storage.run_folder import open_run
from kd.training.history import History, load_state

QUICK = ("run", "--data", "sklearn:digits", "--teacher", "mlp:32", "--student-width", "8", "--epochs", "2")


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run."""
    folder = tmp_path_factory.mktemp("finished") / "run"
    assert cli.main([*QUICK, "--out", str(folder)]) == 0
    return folder


@pytest.fixture
def run_again(finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Return a function that forges the state of a step in a copy, runs again, and returns the error."""

    def call(step: str, forge: Callable[[Any], None], *, done: bool = True) -> str:
        folder = tmp_path / "run"
        shutil.copytree(finished, folder)
        for name in ("results", "models"):
            shutil.rmtree(folder / name)
        (path,) = (folder / ".kd" / "steps").glob(f"{step}-*/*.pt")
        content = torch.load(path, weights_only=True)
        content["done"] = done
        forge(content["state"])
        buffer = io.BytesIO()
        torch.save(content, buffer)
        path.unlink()
        path.with_name(f"000001-{sha256(buffer.getvalue())}.pt").write_bytes(buffer.getvalue())
        code, error = cli.main([*QUICK, "--out", str(folder)]), capsys.readouterr().err
        assert code == 1
        assert not list(folder.glob("results/metrics/*"))
        (paragraph,) = error.strip().splitlines()
        return paragraph

    return call


def spoil(tensor: torch.Tensor, value: float) -> None:
    tensor.flatten()[0] = value


FORGERIES: dict[str, tuple[str, Callable[[Any], Any]]] = {
    "NaN in weights": ("control", lambda s: spoil(s["model"]["output.weight"], float("nan"))),
    "no weights": ("teacher", lambda s: s.pop("model")),
    "weights of another form": ("distilled", lambda s: s.update(model=[1, 2])),
    "another layer": ("distilled", lambda s: s["model"].pop("hidden.bias")),
    "no history": ("control", lambda s: s.pop("history")),
    "curves of texts": ("control", lambda s: s["history"]["curves"].update(train_loss=["a", "b"])),
    "curves of another form": ("control", lambda s: s["history"].update(curves=7)),
    "negative seconds": ("control", lambda s: s["history"].update(seconds=-1.0)),
    "infinite seconds": ("control", lambda s: s["history"].update(seconds=float("inf"))),
    "NaN in logits": ("logits-training", lambda s: spoil(s["logits"], float("nan"))),
    "no labels": ("logits-validation", lambda s: s.pop("labels")),
    "logits that are a text": ("logits-training", lambda s: s.update(logits="logits")),
    "NaN in predictions": ("evaluation", lambda s: spoil(s["control"]["logits"], float("nan"))),
    "predictions of one model": ("evaluation", lambda s: s.pop("control")),
    "better predictions": ("evaluation", lambda s: s["distilled"]["logits"].zero_()),
    "other labels": ("evaluation", lambda s: s["control"].update(labels=s["control"]["logits"].argmax(dim=1))),
    "fewer predictions": (
        "evaluation",
        lambda s: s["control"].update(logits=s["control"]["logits"][:50], labels=s["control"]["labels"][:50]),
    ),
    "no latency": ("latency", lambda s: s.pop("control")),
    "a latency of 0": ("latency", lambda s: s["control"].update(median=0.0)),
    "a latency that is a text": ("latency", lambda s: s["control"].update(p90="fast")),
}


@pytest.mark.parametrize("forgery", FORGERIES)
def test_a_forged_result_is_never_used(forgery: str, run_again: Callable[..., str]) -> None:
    step, forge = FORGERIES[forgery]
    error = run_again(step, forge)
    assert "--fresh" in error
    assert step in error or "saved state does not fit" in error


POSITIONS: dict[str, Callable[[Any], Any]] = {
    "a result as a position": lambda s: None,
    "a negative epoch": lambda s: s.update(epoch=-1),
    "an epoch after the last": lambda s: s.update(epoch=10**9),
    "a batch after the last": lambda s: s["means"].update(batches=10**6),
    "means of another form": lambda s: s.update(means=[1]),
    "a generator of another size": lambda s: s["generators"].__setitem__(2, torch.zeros(3, dtype=torch.uint8)),
    "a generator of NumPy without numbers": lambda s: s["generators"].__setitem__(1, ("MT19937", [], 0, 0, 0.0)),
    "a generator of Python of another form": lambda s: s["generators"].__setitem__(0, [3, [1, 2], None]),
    "no generator": lambda s: s.update(generators=[]),
    "NaN in weights": lambda s: spoil(s["parts"]["model"]["output.weight"], float("nan")),
}


@pytest.mark.parametrize("forgery", POSITIONS)
def test_a_forged_position_is_never_resumed(forgery: str, run_again: Callable[..., str]) -> None:
    def forge(state: dict[str, Any]) -> None:
        if forgery != "a result as a position":
            model = state["model"]
            optimizer = torch.optim.Adam([torch.nn.Parameter(value) for value in model.values()])
            scheduler = torch.optim.lr_scheduler.LinearLR(optimizer)
            step = {"optimizer": optimizer.state_dict(), "scheduler": scheduler.state_dict()}
            empty = History().state()
            state.clear()
            state.update(
                where="epoch 1, batch 1",
                epoch=0,
                means={"batches": 1, "samples": 1, "sums": {}, "missing": {}},
                history=empty,
                generators=generator_states(torch.device("cpu")),
                parts={"model": copy.deepcopy(model), "step": {**step, "counts": [0] * 5, "gradients": []}},
            )
        POSITIONS[forgery](state)

    assert "--fresh" in run_again("control", forge, done=False)


@pytest.mark.parametrize(
    "content", ["[]", "1", '{"threads": 0}', '{"threads": 1e999}', '{"threads": -3}', "[" * 10_000]
)
def test_a_forged_record_of_threads_is_named(content: str, tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text(content)
    with pytest.raises(ValueError, match=r"run.json is damaged.*Delete it"), open_run(tmp_path):
        pass


@pytest.mark.parametrize("content", ["[]", "1", '{"inputs": {"teacher": 1, "dataset": 2}}', "[" * 10_000, "\udcff"])
def test_a_forged_description_of_logits_is_named(
    content: str, finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(finished, tmp_path / "run")
    (path,) = tmp_path.glob("run/.kd/steps/logits-training-*/description.json")
    path.write_bytes(content.encode(errors="surrogateescape"))
    assert cli.main(["cache", "info", "--out", str(tmp_path / "run")]) == 1
    assert "description.json is damaged" in capsys.readouterr().err


def test_the_cache_of_an_interrupted_run_is_explained(
    finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(finished, tmp_path / "run")
    shutil.rmtree(tmp_path / "run" / "models")
    assert cli.main(["cache", "verify", "--out", str(tmp_path / "run")]) == 1
    error = capsys.readouterr().err
    assert "teacher_model.pth does not exist: the run was interrupted before it saved its models" in error
    assert "Errno" not in error


def test_an_edited_report_section_is_left_out_with_a_note(
    finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(finished, tmp_path / "run")
    path = tmp_path / "run" / ".kd" / "report" / "run.json"
    part = json.loads(path.read_bytes())
    part["verdict"] = "Distillation helps by 50 points."
    path.write_text(json.dumps(part))
    assert cli.main(["report", "--out", str(tmp_path / "run")]) == 1
    assert "it was changed after it was saved" in capsys.readouterr().out
    assert b"50 points" not in (tmp_path / "run" / "results" / "report.html").read_bytes()


def test_all_of_torchs_reason_is_kept() -> None:
    with pytest.raises(ValueError, match=r"Missing key.*bias.*Unexpected key.*other.*size mismatch for weight"):
        load_state(torch.nn.Linear(2, 3), {"weight": torch.zeros(5, 5), "other": torch.zeros(1)}, "student")
