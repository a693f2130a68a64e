"""Data from a user's Python file: the console reports that it runs, and invalid results raise an error."""

from __future__ import annotations

import pickle
import sys
from pathlib import Path

import cloudpickle
import pytest
import torch

from kd.data.sources import open_source, split_source

CODE = """
from __future__ import annotations

from dataclasses import dataclass

import torch
from torch.utils.data import Dataset


@dataclass
class Squares(Dataset):
    start: int
    rows: int

    def __len__(self):
        return self.rows

    def __getitem__(self, index):
        return torch.tensor([float(self.start + index)]) ** 2, index % 3
"""
PAIR = CODE + "\n\ndef load():\n    return Squares(0, 60), Squares(100, 12)\n"
SOURCE = CODE + (
    "\n\ndef load():\n    from kd.data.sources import Source\n"
    "    return Source('mine', Squares(0, 60), Squares(200, 9), None, ('a', 'b', 'c'))\n"
)


def write_file(folder: Path, code: str) -> str:
    path = folder / "my_data.py"
    path.write_text(code)
    return str(path)


@pytest.fixture(autouse=True)
def _unload_module() -> object:
    yield
    if module := sys.modules.pop("kd_plugin_my_data", None):
        cloudpickle.unregister_pickle_by_value(module)


def test_two_datasets_become_a_source_and_the_console_reports_the_code(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write_file(tmp_path, PAIR)
    source = open_source(path)
    assert capsys.readouterr().out == f"{path}: running its code for load\n"
    assert (source.name, source.classes, list(source.parts)) == ("my_data", ("0", "1", "2"), ["train", "test"])
    splits = split_source(source)
    assert [len(split) for split in splits[:3]] == [54, 6, 12]  # type: ignore[arg-type]
    assert splits.test[2][0].tolist() == [102.0**2]


def test_a_returned_source_is_used_unchanged(tmp_path: Path) -> None:
    source = open_source(Path(write_file(tmp_path, SOURCE)))
    assert (source.name, source.classes, list(source.parts)) == ("mine", ("a", "b", "c"), ["train", "val"])


def test_class_names_are_taken_from_the_dataset(tmp_path: Path) -> None:
    code = PAIR.replace("    start: int\n", "    classes = ['x', 'y', 'z']\n    start: int\n")
    assert open_source(write_file(tmp_path, code)).classes == ("x", "y", "z")


def test_datasets_with_classes_in_another_order_raise(tmp_path: Path) -> None:
    body = "    train.classes, test.classes = ['x', 'y', 'z'], ['y', 'x', 'z']\n    return train, test\n"
    code = CODE + f"\n\ndef load():\n    train, test = Squares(0, 60), Squares(100, 12)\n{body}"
    with pytest.raises(ValueError, match="Got 'x' in train and 'y' in test for label 0"):
        open_source(write_file(tmp_path, code))


def test_datasets_can_be_sent_to_processes_that_cannot_import_the_file(tmp_path: Path) -> None:
    pickled = cloudpickle.dumps(open_source(write_file(tmp_path, PAIR)).train)
    del sys.modules["kd_plugin_my_data"]
    assert torch.equal(pickle.loads(pickled)[3][0], torch.tensor([9.0]))


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("x = 1\n", r"my_data\.py defines no 'load'"),
        (
            "load = 1\n",
            r"load in .*my_data\.py must be a function\. Got a int instead\. It must return a kd\.data\.sources\.",
        ),
        ("def load():\n    return 1\n", r"load\(\) in .*my_data\.py returned a int\. It must return"),
        ("def load():\n    return [], [], []\n", "returned a tuple"),
    ],
)
def test_a_file_without_a_valid_load_raises(code: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        open_source(write_file(tmp_path, code))


def test_an_identifier_among_the_labels_raises_before_names_are_made(tmp_path: Path) -> None:
    body = "    return [(torch.ones(1), 10**15 * (row % 2)) for row in range(9)], Squares(0, 9)\n"
    with pytest.raises(ValueError, match="Got 2 different ones, the largest 1,000,000,000,000,000, for 9 training"):
        open_source(write_file(tmp_path, CODE + f"\n\ndef load():\n{body}"))


def test_an_error_in_the_users_code_names_the_file(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"load\(\) in .*my_data\.py failed \(ZeroDivisionError: .*\)"):
        open_source(write_file(tmp_path, "def load():\n    return 1 / 0\n"))


def test_a_missing_file_is_named() -> None:
    with pytest.raises(FileNotFoundError, match=r"there is no file none\.py"):
        open_source("none.py")
