"""Models from a user's file: supported definitions, printed messages, and errors."""

from __future__ import annotations

import dataclasses
import random
import shutil
import subprocess
import sys
from pathlib import Path

import cloudpickle
import pytest
import torch

from kd.commands.settings import RunSettings
from kd.commands.trust import named_files
from kd.models.build import build
from kd.storage.fingerprint import describe, digest

ROOT = Path(__file__).resolve().parent.parent
CODE = """
from __future__ import annotations
import dataclasses
from torch import nn

@dataclasses.dataclass
class Width:
    value: int = 3

class Adapted(nn.Sequential):
    def __init__(self, input_shape, classes):
        super().__init__(nn.Flatten(), nn.Linear(input_shape[0], classes))

def takes_classes(classes, width=Width()):
    return nn.Sequential(nn.LazyLinear(width.value), nn.Linear(width.value, classes))

class Fixed(nn.Sequential):
    def __init__(self):
        super().__init__(nn.Linear(6, 4))

def needs_depth(input_shape, depth): ...
def fails(): raise KeyError("inside")
def returns_int(): return 3
instance, number = Fixed(), 3
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "random.py"  # must not replace the standard module random
    path.write_text(CODE)
    return path


@pytest.mark.parametrize("name", ["Adapted", "takes_classes", "Fixed"])
def test_a_class_or_function_gets_the_arguments_it_accepts(
    file: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    first, second = (build(f"{file}:{name}", input_shape=(6,), classes=4, seed=5) for _ in range(2))
    assert first(torch.randn(3, 6)).shape == (3, 4)
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))
    assert f"{file}: running its code for {name}" in " ".join(capsys.readouterr().out.split("\n"))
    assert [path.name for path in file.parent.iterdir()] == ["random.py"]
    assert sys.modules["random"] is random


def test_an_edit_takes_effect_and_changes_the_fingerprint(file: Path) -> None:
    before = build(f"{file}:Adapted", input_shape=(6,), classes=4, seed=0)
    file.write_text(CODE.replace("nn.Flatten(), nn.Linear", "nn.Identity(), nn.Linear"))
    after = build(f"{file}:Adapted", input_shape=(6,), classes=4, seed=0)
    assert type(after[0]).__name__ == "Identity"  # type: ignore[index]
    assert digest(describe(before)) != digest(describe(after))


@pytest.mark.slow
def test_its_models_can_be_sent_to_another_process(file: Path) -> None:
    model = build(f"{file}:Adapted", input_shape=(6,), classes=4, seed=0)
    sent = file.parent / "model.bin"
    sent.write_bytes(cloudpickle.dumps(model))
    program = f"""
import pickle, torch
from kd.storage.fingerprint import describe, digest
model = pickle.load(open({str(sent)!r}, "rb"))
print(list(model(torch.ones(1, 6)).shape), digest(describe(model)))
"""
    first, second = (
        subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True).stdout
        for _ in range(2)
    )
    assert first.startswith("[1, 4] ")
    assert first == second  # so another process can resume a step


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("", r"must be FILE.py:NAME, a Python file and a name defined in it"),
        ("Adaptd", r"random.py defines no 'Adaptd'\. Did you mean Adapted\?"),
        ("qqqq", r"random.py defines no 'qqqq'\. Define it, or name one of its objects: .*Adapted"),
        (
            "needs_depth",
            r"random.py:needs_depth must take \(input_shape, classes\) or no arguments\. Got \(input_shape, depth",
        ),
        ("fails", r"random.py:fails failed when called \(KeyError: 'inside'\)\. Correct the file"),
        ("returns_int", r"random.py:returns_int must return a torch.nn.Module\. Got a int instead"),
        ("instance", r"must be a class or a function that returns a model\. Got a Fixed instead"),
        ("number", r"must be a class or a function that returns a model\. Got a int instead"),
        ("Fixed", r"Fixed failed on one sample \[1, 7\]"),
    ],
)
def test_an_invalid_model_is_refused(file: Path, name: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build(f"{file}:{name}", input_shape=(7,), classes=4, seed=0)


def test_a_file_without_a_name_is_refused(file: Path) -> None:
    with pytest.raises(ValueError, match=r"must be FILE.py:NAME.*such as net.py:Student"):
        build(str(file), input_shape=(7,), classes=4, seed=0)


def test_a_missing_or_failing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"there is no file .*net.py to load 'Net' from\. Check its path"):
        build(f"{tmp_path / 'net.py'}:Net", input_shape=(7,), classes=4, seed=0)
    for code, reason in (("def", "SyntaxError"), ("import nothing_of_that_name", "ModuleNotFoundError: No module")):
        (tmp_path / "net.py").write_text(code)
        with pytest.raises(ValueError, match=rf"net.py failed while its code ran \({reason}.*\)\. Correct it"):
            build(f"{tmp_path / 'net.py'}:Net", input_shape=(7,), classes=4, seed=0)
        assert "kd_plugin_net" not in sys.modules


def test_a_file_that_ends_the_program_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "program.py"
    path.write_text("import sys\nfrom torch import nn\ndef net(): return nn.Linear(6, 4)\nsys.exit(0)\n")
    with pytest.raises(ValueError, match=r"program\.py called sys\.exit\(0\) .* if __name__ == \"__main__\":"):
        build(f"{path}:net", input_shape=(6,), classes=4, seed=0)


def test_a_file_can_define_dataclasses(file: Path) -> None:
    build(f"{file}:takes_classes", input_shape=(6,), classes=4, seed=0)
    assert dataclasses.is_dataclass(sys.modules["kd_plugin_random"].Width)


# --- files beside a plugin

PLUGIN = """
from blocks import Block
import parts.layers as layers
from torch import nn

class Net(nn.Module):
    def __init__(self, input_shape, classes):
        super().__init__()
        self.block = Block(input_shape[0], classes)

    def forward(self, x):
        return layers.scale(self.block(x))
"""
BLOCKS = """
from torch import nn
from parts.sizes import WIDTH

class Block(nn.Sequential):
    def __init__(self, inputs, classes):
        super().__init__(nn.Linear(inputs, WIDTH), nn.Linear(WIDTH, classes))
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "own"
    (folder / "parts").mkdir(parents=True)
    (folder / "net.py").write_text(PLUGIN)
    (folder / "blocks.py").write_text(BLOCKS)
    (folder / "parts" / "__init__.py").write_text("")
    (folder / "parts" / "layers.py").write_text("from .sizes import FACTOR\ndef scale(x): return x * FACTOR\n")
    (folder / "parts" / "sizes.py").write_text("WIDTH, FACTOR = 5, 1.0\n")
    (folder / "unused.py").write_text("raise RuntimeError\n")
    return folder


def build_net(folder: Path) -> torch.nn.Module:
    return build(f"{folder / 'net.py'}:Net", input_shape=(6,), classes=4, seed=5)


def test_a_plugin_imports_the_files_beside_it_from_any_folder(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    before = list(sys.path), len(sys.meta_path)
    assert build_net(folder)(torch.randn(3, 6)).shape == (3, 4)
    assert (list(sys.path), len(sys.meta_path)) == before
    assert not list(folder.rglob("__pycache__"))


def test_an_edit_of_a_file_beside_it_takes_effect_and_changes_the_fingerprint(folder: Path) -> None:
    before = build_net(folder)
    (folder / "blocks.py").write_text(
        BLOCKS.replace("nn.Linear(WIDTH, classes)", "nn.ReLU(), nn.Linear(WIDTH, classes)")
    )
    (folder / "parts" / "sizes.py").write_text("WIDTH, FACTOR = 7, 1.0\n")
    after = build_net(folder)
    assert [p.shape[0] for p in after.parameters()] == [7, 7, 4, 4]
    assert digest(describe(before)) != digest(describe(after))


def test_two_plugins_have_their_own_files_of_one_name(folder: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    shutil.copytree(folder, other)
    (other / "parts" / "sizes.py").write_text("WIDTH, FACTOR = 9, 1.0\n")
    widths = [next(build_net(place).parameters()).shape[0] for place in (folder, other, folder)]
    assert widths == [5, 9, 5]


def test_a_file_beside_it_hides_an_installed_module_only_for_the_plugin(folder: Path) -> None:
    import markupsafe as installed

    (folder / "markupsafe.py").write_text("DEPTH = 3\n")
    (folder / "random.py").write_text("raise RuntimeError\n")  # the standard library is never replaced
    (folder / "net.py").write_text(f"import random\nfrom markupsafe import DEPTH\nrandom.random()\n{PLUGIN}")
    build_net(folder)
    assert sys.modules["kd_plugin_net"].DEPTH == 3
    assert sys.modules["markupsafe"] is installed
    assert sys.modules["random"] is random


@pytest.mark.slow
def test_a_model_with_parts_from_beside_can_be_sent_to_another_process(folder: Path) -> None:
    sent = folder / "model.bin"
    sent.write_bytes(cloudpickle.dumps(build_net(folder)))
    program = f"import pickle, torch; print(list(pickle.load(open({str(sent)!r}, 'rb'))(torch.ones(1, 6)).shape))"
    ended = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert ended.stdout == "[1, 4]\n"


def test_the_files_beside_it_that_run_are_listed_for_consent(folder: Path) -> None:
    settings = RunSettings(student=f"{folder / 'net.py'}:Net")
    names = {path.relative_to(folder).as_posix() for path in named_files(settings)}
    assert names == {"net.py", "blocks.py", "parts/__init__.py", "parts/layers.py", "parts/sizes.py"}
