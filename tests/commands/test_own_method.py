"""``--method FILE.py:NAME``: the example of docs/add_a_method.md in every command, edits, consent and refusals."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import pytest
import torch

from kd import cli
from kd.methods import make

PAGE = Path(__file__).parents[2] / "docs" / "add_a_method.md"
QUICK = ("--data", "sklearn:digits", "--teacher", "mlp:16", "--student", "mlp:8", "--epochs", "1", "--device", "cpu")


@pytest.fixture(autouse=True)
def _own_configuration(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KD_CONFIG_DIR", str(tmp_path / "configuration"))
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")


@pytest.fixture
def example() -> Path:
    """The example of the page, in the working folder."""
    (code,) = re.findall(r"```python\n# (\w+\.py)\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    path = Path(code[0])
    path.write_text(code[1], encoding="utf-8")
    return path


def commands() -> list[list[str]]:
    """Return the arguments of the commands on the page."""
    (block,) = re.findall(r"```bash\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    return [shlex.split(line, comments=True)[1:] for line in block.splitlines()]


def call(*arguments: str | Path) -> int:
    try:
        return cli.main([*map(str, arguments)])
    except SystemExit as error:
        return int(error.code or 0)


def recorded(out: str) -> dict[str, object]:
    return dict(json.loads(Path(out, "results", "metrics", "metrics.json").read_text(encoding="utf-8"))["config"])


def weights(out: str, name: str) -> bytes:
    return Path(out, "models", f"{name}.pth").read_bytes()


def test_the_example_is_the_objective_that_the_page_states(example: Path) -> None:
    generator = torch.Generator().manual_seed(0)
    student, teacher = torch.randn(2, 6, 4, generator=generator)
    labels, model = teacher.argmax(dim=1), torch.nn.Identity()
    labels[0] = (labels[0] + 1) % 4  # the teacher is wrong about this sample
    batch = (student, labels, teacher)
    _, terms = make(f"{example}:centred", model, model, batch, {"alpha": 0.1, "scale": 2.0})(model, batch)
    centred = [logits - logits.mean(dim=1, keepdim=True) for logits in (student, teacher)]
    distances = (centred[0] - centred[1]).square().mean(dim=1)
    assert terms["soft"].item() == pytest.approx(0.9 * 2 * distances[1:].sum().item() / 6, rel=1e-6)
    assert terms["hard"].item() == pytest.approx(0.1 * torch.nn.functional.cross_entropy(student, labels).item())


def test_the_objective_of_the_recipe_that_the_page_names_is_a_method() -> None:
    generator = torch.Generator().manual_seed(0)
    student, teacher = torch.randn(2, 6, 4, generator=generator)
    model, batch = torch.nn.Identity(), (student, torch.arange(6) % 4, teacher)
    _, terms = make(f"{PAGE.parents[1] / 'recipes' / 'own_loss.py'}:matched_logits", model, model, batch)(model, batch)
    assert list(terms) == ["hard", "soft"]
    assert "matched_logits" in PAGE.read_text(encoding="utf-8")


@pytest.mark.slow  # a run, two pairs and a few students of a sweep
def test_the_commands_of_the_page_work(example: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run, compare, sweep = commands()
    assert (run[0], compare[0], sweep[0]) == ("run", "compare", "sweep")
    assert call(*run, *QUICK) == 0
    printed = capsys.readouterr().out
    assert "method: matched.py:centred with alpha=0.5, scale=1" in printed
    assert recorded("run")["METHOD"] == "matched.py:centred"
    assert recorded("run")["SET"] == ["alpha=0.5", "scale=1"]
    assert call(*compare, *QUICK, "--pairs", "2", "--smoothing", "0", "--no-longer") == 0
    assert "teacher: up to date, reused" in capsys.readouterr().out
    ledger = json.loads(Path("run", ".kd", "verdicts.json").read_text(encoding="utf-8"))
    assert "matched.py:centred, α = 0.5, scale = 0.2" in ledger["entries"][0]["title"]
    assert call(*sweep, *QUICK, "--seeds", "1", "--final-pairs", "2") == 0
    points = json.loads(Path("run", "results", "metrics", "sweep.json").read_text(encoding="utf-8"))["points"]
    assert len(points) == 6 + 1  # and the control
    assert {"scale", "alpha", "control"} <= set(points[0])


@pytest.mark.slow  # four runs
def test_an_edit_trains_only_the_distilled_student_again(example: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flags = ("run", "--out", "run", *QUICK, "--method", f"{example}:centred")
    assert call(*flags) == 0
    before, source = weights("run", "student_distilled"), recorded("run")["METHOD_SOURCE"]
    capsys.readouterr()
    assert call(*flags) == 0
    assert "distilled: up to date, reused" in capsys.readouterr().out
    example.write_text(example.read_text().replace("scale * (", "7 * scale * ("))
    assert call(*flags) == 0
    kept = re.findall(r"^(\S+): up to date, reused", capsys.readouterr().out, flags=re.MULTILINE)
    assert kept == ["teacher", "logits-training", "logits-validation", "control"]
    assert weights("run", "student_distilled") != before
    assert recorded("run")["METHOD_SOURCE"] != source
    assert call(*flags, "--set", "alpha=1") == 0
    assert weights("run", "student_distilled") == weights("run", "student_regular")


def test_a_folder_from_somebody_else_does_not_run_its_method(example: Path, capsys: pytest.CaptureFixture[str]) -> None:
    example.write_text(example.read_text() + "\nfrom pathlib import Path\nPath('ran').touch()\n")
    Path("run.toml").write_text('data = "sklearn:digits"\nmethod = "matched.py:centred"\n')
    for command in (("evaluate",), ("distill",), ("cache", "verify"), ("run", "--config", "run.toml")):
        assert call(*command, "--out", ".") != 0
        assert "names the Python file matched.py, whose code would be run" in capsys.readouterr().err
        assert not Path("ran").exists()


def test_a_settings_file_holds_the_path_from_its_own_folder(example: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert call("run", "--out", "deep/run", *QUICK, "--method", f"{example}:missing") == 2
    assert call("distill", "--out", "deep/run", *QUICK, "--method", f"{example}:centred") == 0
    assert 'method = "../../matched.py:centred"' in Path("deep/run/run.toml").read_text()
    monkeypatch.chdir("deep")
    assert call("evaluate", "--out", "run") == 0


@pytest.mark.parametrize(
    ("code", "flags", "message"),
    [
        (
            "def own(s, t, y): ...",
            (),
            "--method: own.py:own must be one of def NAME(student_logits, teacher",
        ),
        ("def owned(model, batch): ...", (), "--method: own.py defines no 'own'. Did you mean owned?"),
        ("1 / 0", (), "--method: own.py failed while its code ran (ZeroDivisionError"),
        ("def own(model, batch, size=1): ...", ("--set", "sise=2"), "no setting 'sise'. Did you mean size?"),
        ("def own(model, batch, size=1): ...", ("--set", "size=x"), "--set size=x: size must be a int"),
        ("def own(model, batch): ...", ("--temperature", "2"), "--temperature and --alpha are settings of kd"),
        ("def own(student_logits, teacher_logits): ...", ("--alpha", "0.2"), "Use --set, with any of alpha=0.5"),
        (
            "def own(student_logits, teacher_logits, labels): ...",
            ("--unlabelled", "x.npz"),
            "own.py:own needs a label for every sample",
        ),
        (
            "def own(student, teacher, batch): ...",
            ("--teacher", "logits=x.npy"),
            "--method own.py:own needs the teacher's features",
        ),
    ],
)
def test_a_mistake_is_answered_before_any_work(
    code: str, flags: tuple[str, ...], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("own.py").write_text(code)
    assert call("run", "--out", "new", "--method", "own.py:own", *flags) == 2
    assert message in " ".join(capsys.readouterr().err.split())
    assert not Path("new").exists()


def test_mixed_samples_need_a_loss_without_labels(capsys: pytest.CaptureFixture[str]) -> None:
    code = "def own(student_logits, teacher_logits{}):\n    return (student_logits - teacher_logits).square().mean()\n"
    Path("own.py").write_text(code.format(", labels"))
    flags = ("run", "--out", "new", *QUICK, "--mixup", "0.2", "--method", "own.py:own")
    assert call(*flags) == 2
    error = " ".join(capsys.readouterr().err.split())
    assert "--mixup 0.2: own.py:own cannot train on mixed samples, because its own loss reads labels" in error
    assert not Path("new").exists()
    Path("own.py").write_text(code.format(""))
    assert call(*flags) == 0
    assert recorded("new")["MIXUP"] == 0.2


def test_a_method_that_fails_on_a_batch_is_refused_before_training(capsys: pytest.CaptureFixture[str]) -> None:
    Path("own.py").write_text("def own(student_logits, teacher_logits, labels):\n    return student_logits - labels\n")
    assert call("run", "--out", "new", *QUICK, "--method", "own.py:own") == 1
    out, err = capsys.readouterr()
    assert "--method own.py:own" in err
    assert "epoch" not in out


OBJECTIVES = """
import torch.nn.functional as F
from kd.methods.objectives import supervised_where_labelled

def mine(model, batch):
    output = model(batch[0])
    return output, {"hard": F.cross_entropy(output, batch[1])}

def shared(model, batch):
    return supervised_where_labelled(model, batch)
"""


@pytest.mark.parametrize("flags", [("--class-weights", "balanced"), ("--label-smoothing", "0.1")])
def test_label_options_that_an_objective_would_not_get_are_refused(
    flags: tuple[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    Path("own.py").write_text(OBJECTIVES)
    assert call("run", "--out", "new", *QUICK, "--method", "own.py:mine", *flags) == 1
    err = " ".join(capsys.readouterr().err.split())
    assert f"{' '.join(flags)} must be omitted with --method own.py:mine" in err
    assert "supervised_where_labelled" in err
    assert call("run", "--out", "new", *QUICK, "--method", "own.py:shared", *flags, "--dry-run") == 0
    assert call("run", "--out", "new", *QUICK, "--method", "own.py:mine", "--dry-run") == 0


def test_a_missing_file_is_answered_with_a_similar_one(capsys: pytest.CaptureFixture[str]) -> None:
    Path("own.py").write_text("")
    assert call("run", "--method", "onw.py:own") == 2
    assert "--method: there is no file onw.py" in (err := capsys.readouterr().err)
    assert "Did you mean own.py?" in err
