"""The Python code of the pages on own data, models and scikit-learn runs in order; methods are named rightly."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn import datasets
from sklearn.ensemble import RandomForestClassifier
from torch.utils.data import Subset

import kd
from kd.methods import METHODS
from kd.models.build import build
from kd.storage.weights import weights_bytes

DOCS = Path(__file__).resolve().parents[2] / "docs"


@pytest.fixture
def names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Create the variables and files that the page assumes: data, a teacher and a table of its logits."""
    monkeypatch.chdir(tmp_path)
    mnist = kd.load_mnist(train=True)
    training, validation = Subset(mnist, range(200)), Subset(mnist, range(200, 400))
    teacher = build("mlp:64", input_shape=(1, 28, 28), classes=10, seed=0)
    loader = kd.make_loader(training, batch_size=20, shuffle=True)
    optimizer = torch.optim.Adam(teacher.parameters(), lr=3e-3)
    kd.fit(teacher, kd.supervised, loader, loader, optimizer=optimizer, epochs=5, seed=0)
    Path("teacher.pth").write_bytes(weights_bytes(teacher))
    other = build("mlp:64", input_shape=(1, 28, 28), classes=12, seed=0)
    state = teacher.state_dict()
    heads = {name: torch.cat([state[name][:2] * 0, state[name].flip(0)]) for name in state if "output" in name}
    other.load_state_dict(state | heads)  # output 11 − d belongs to digit d
    Path("other.pth").write_bytes(weights_bytes(other))
    Path("map.csv").write_text("teacher,data\n" + "".join(f"{11 - digit},{digit}\n" for digit in range(10)))
    files = [f"{i}.png" for i in range(200)]
    rows = zip(files, kd.collect_logits(teacher, training).logits.tolist(), strict=True)
    lines = [",".join([file, *map(repr, row)]) for file, row in rows]
    Path("teacher.csv").write_text("\n".join(["file," + ",".join("0123456789"), *lines[::-1]]))
    return {"training": training, "validation": validation, "labels": mnist.labels[:200], "names": files}


def run_page(page: str, names: dict[str, Any], *, blocks: int, section: str = "") -> None:
    """Run the Python blocks of a page, or of one of its sections, and check their number."""
    text = (DOCS / page).read_text(encoding="utf-8")
    if section:
        (text,) = re.findall(rf"^## {section}\n(.*?)(?=^## |\Z)", text, re.MULTILINE | re.DOTALL)
    sources = re.findall(r"^```python\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    assert len(sources) == blocks
    for number, source in enumerate(sources, start=1):
        exec(compile(source, f"{page}, {section}, python block {number}", "exec"), names)


def test_the_code_on_models_runs(names: dict[str, Any]) -> None:
    run_page("models.md", names, blocks=6)
    teacher, distill_data = names["teacher"], names["distill_data"]
    np.testing.assert_allclose(distill_data.logits, kd.collect_logits(teacher, names["training"]).logits, atol=1e-5)
    torch.testing.assert_close(names["cached"].logits, names["same"])
    assert [name for name, p in names["model"].named_parameters() if not p.requires_grad] == [
        "hidden.weight",
        "hidden.bias",
    ]


def test_the_code_on_unlabelled_data_runs(names: dict[str, Any]) -> None:
    images = kd.load_mnist(train=True).images[400:430]
    np.savez("more.npz", x=images.numpy(), y="nobody reads this")
    teacher = build("mlp:64", input_shape=(1, 28, 28), classes=10, seed=0)
    names |= {"kd": kd, "teacher": teacher}
    run_page("own_data.md", names, blocks=1, section="Unlabelled data")
    _, labels, logits = next(iter(kd.make_loader(names["distill_data"], batch_size=230)))
    assert labels.tolist() == [*names["labels"].tolist(), *[-1] * 30]
    rows = kd.collect_logits(teacher, Subset(kd.load_mnist(train=True), [*range(200), *range(400, 430)]))
    torch.testing.assert_close(logits, rows.logits)
    assert len(names["loader"]) == len(names["control_loader"])


def test_the_page_names_the_methods_for_unlabelled_data() -> None:
    (line,) = re.findall(
        r"^- \*\*Methods\*\*: (.*?)(?=^- )",
        (DOCS / "own_data.md").read_text(encoding="utf-8"),
        re.MULTILINE | re.DOTALL,
    )
    supported, unsupported = (set(re.findall("`([a-z-]+)`", text)) for text in line.split("Not supported", 1))
    with_teacher = {name for name, method in METHODS.items() if {"logits", "teacher"} & set(method.needs)}
    assert unsupported == {name for name in with_teacher if not METHODS[name].unlabelled}
    assert supported == {name for name in with_teacher - unsupported if "logits" in METHODS[name].needs}


@pytest.mark.slow
def test_the_code_on_scikit_learn_runs(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    inputs, labels = datasets.load_digits(return_X_y=True)
    monkeypatch.setattr(datasets, "load_digits", lambda *, return_X_y: (inputs[:450], labels[:450]))
    monkeypatch.setattr(RandomForestClassifier.__init__, "__defaults__", (20,))  # trees
    names: dict[str, Any] = {}
    run_page("scikit_learn.md", names, blocks=5)
    scores = capsys.readouterr().out.splitlines()[0].split()
    assert min(map(float, scores)) > 0.9
    assert names["search"].score(names["X_test"], names["y_test"]) > 0.9
