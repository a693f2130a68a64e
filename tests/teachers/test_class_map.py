"""Class maps: each class of the data gets the probability of its outputs; a wrong map is refused in words."""

from __future__ import annotations

import contextlib
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from kd.data.datasets import ArrayDataset
from kd.models.build import build
from kd.storage.weights import weights_bytes
from kd.teachers.class_map import (
    MappedOutputs,
    MapRow,
    digest_of_class_map,
    find_members,
    find_output_names,
    map_outputs,
    measure_share_outside,
    pad_members,
    read_class_map,
)
from kd.teachers.load import load_teacher, teacher_accuracy
from kd.teachers.logit_files import read_logits

NAMES = ["cat", "dog", "cow"]
some = settings(max_examples=25, deadline=None)


def write(folder: Path, text: str) -> Path:
    path = folder / "map.csv"
    path.write_text(text, encoding="utf-8")
    return path


def members_of(folder: Path, text: str, *, outputs: int = 6, names: list[str] | None = None) -> list[list[int]]:
    return find_members(read_class_map(write(folder, text)), NAMES, outputs=outputs, output_names=names)


# --- the map

EXPECTED = [[4], [0, 2], [5]]


@pytest.mark.parametrize(
    "text",
    [
        "4,cat\n0,dog\n2,dog\n5,cow\n",
        "teacher,data\n4,cat\n0,dog\n2,dog\n5,cow\n",
        "\ufeffData, Teacher ,note\ncow,5,\ncat,4,x\ndog,0,\ndog,2,\n",
        ' 4 , cat \n\n"0","dog"\n2,dog\n5,cow\n1,\n',
        "tabby,cat\nhound,dog\n2,dog\nbull,cow\n",
    ],
)
def test_a_map_may_have_a_header_columns_in_any_order_names_and_classes_that_are_left_out(
    text: str, tmp_path: Path
) -> None:
    names = ["hound", "ant", "wolf", "bee", "tabby", "bull"] if "tabby" in text else None
    assert members_of(tmp_path, text, names=names) == EXPECTED


def test_a_name_goes_before_an_index(tmp_path: Path) -> None:
    as_text = ["0", "1", "10", "2", "3"]
    assert members_of(tmp_path, "10,cat\n2,dog\n3,cow\n", outputs=5, names=as_text) == [[2], [3], [4]]


@pytest.mark.parametrize(
    ("text", "names", "message"),
    [
        ("0,cat\n1,dog\n6,cow\n", None, r"line 3 of the class map: 6 must be an output of the teacher, from 0 to 5"),
        ("0,cat\n1,dog\n-1,cow\n", None, r"line 3 .*'-1', but the names .* not known.*from 0 to 5"),
        (f"0,cat\n1,dog\n{'9' * 5000},cow\n", None, r"from 0 to 5"),
        ("0,cat\n1,dog\n1,cow\n", None, r"line 3 .* repeats output 1 .* line 2 has already.*--teacher-head fit"),
        ("0,cat\n1,dgo\n2,cow\n", None, r"line 2 .*'dgo', which is no class of the data\. Did you mean dog\?"),
        ("0,cat\n1,dog\n", None, r"for 1 of 3 classes of the data: cow\. Add a line .*--teacher-head fit"),
        ("0,cat\n1,dog\n2,\n", None, r"for 1 of 3 classes of the data: cow\."),
        ("tabby,cat\n1,dog\n2,cow\n", None, r"'tabby', but the names of this teacher's outputs are not known"),
        (
            "taby,cat\n1,dog\n2,cow\n",
            [*"abcde", "tabby"],
            r"'taby', .* no class of the teacher\. Did you mean ta",
        ),
        ("crane,cat\n1,dog\n2,cow\n", ["crane", *"abcd", "crane"], r"'crane', the name of several .*one of \[0, 5\]"),
        ("cats,dogs\n0,cat\n1,dog\n2,cow\n", None, r"line 1 .*'cats'.* a header is teacher,data"),
        ("0;cat\n1;dog\n2;cow\n", None, r"line 1 should have two cells: .*Got 1: '0;cat'"),
        ("teacher,data\n0,cat\n1,dog,cow\n", None, r"line 3 should have 2 cells, like the header\. Got 3"),
        ("", None, r"its number of lines must be at least 2\. Got 0"),
        ("teacher,data\n", None, r"its number of lines must be at least 2\. Got 0"),
        ('0,"cat\n', None, r"map\.csv: it is not comma-separated text"),
    ],
)
def test_a_wrong_map_is_refused_in_words(text: str, names: list[str] | None, message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        members_of(tmp_path, text, names=names)


def test_a_missing_or_binary_file_is_refused(tmp_path: Path) -> None:
    write(tmp_path, "0,a\n")
    with pytest.raises(FileNotFoundError, match=r"no file .*mapp\.csv with a class map\. Did you mean .*map\.csv\?"):
        read_class_map(tmp_path / "mapp.csv")
    (tmp_path / "map.csv").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ValueError, match=r"invalid class map in .*map\.csv: it is not comma-separated text in UTF-8"):
        read_class_map(tmp_path / "map.csv")
    assert digest_of_class_map(tmp_path / "map.csv") is not None
    assert digest_of_class_map(None) is None


@some
@given(text=st.text(max_size=60))
def test_any_file_is_a_map_or_a_value_error(text: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    with contextlib.suppress(ValueError, UnicodeEncodeError):
        assert all(map(len, members_of(tmp_path_factory.mktemp("map"), text)))


# --- the outputs


@some
@given(assigned=st.lists(st.integers(-1, 2), min_size=3, max_size=8), seed=st.integers(0, 99))
def test_probabilities_add_up_by_class_and_are_renormalised(assigned: list[int], seed: int) -> None:
    assigned = [0, 1, 2, *assigned]
    members = pad_members([[i for i, k in enumerate(assigned) if k == label] for label in range(3)])
    logits = torch.from_numpy(np.random.default_rng(seed).normal(size=(5, len(assigned)))) * 4
    p = logits.exp() / logits.exp().sum(dim=1, keepdim=True)
    sums = torch.stack([p[:, [i for i, k in enumerate(assigned) if k == label]].sum(dim=1) for label in range(3)], 1)
    torch.testing.assert_close(map_outputs(logits, members).softmax(dim=1), sums / sums.sum(dim=1, keepdim=True))
    assert measure_share_outside(logits, members) == pytest.approx(float(1 - sums.sum(dim=1).mean()), abs=1e-9)


def test_one_output_per_class_is_selected_exactly() -> None:
    logits = torch.randn(4, 6)
    assert torch.equal(map_outputs(logits, pad_members([[4], [0], [5]])), logits[:, [4, 0, 5]])


def test_names_of_outputs_are_the_models_own_or_those_of_imagenet() -> None:
    model = nn.Identity()
    assert find_output_names(model, "cnn:4", 1000) is None
    names = find_output_names(model, "torchvision:resnet18", 1000)
    assert names is not None
    assert len(names) == 1000
    assert names[281] == "tabby"
    assert find_output_names(model, "torchvision:resnet18", 10) is None
    model.class_names = ["a", "b"]  # type: ignore[assignment]
    assert find_output_names(model, "net.py:Net", 2) == ["a", "b"]
    with pytest.raises(ValueError, match=r"class_names of net\.py:Net must be one name for each of 3 outputs\. Got 2"):
        find_output_names(model, "net.py:Net", 3)


# --- teachers


def test_a_network_is_built_with_the_outputs_of_its_file_and_restricted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    network = build("mlp:8", input_shape=(5,), classes=7, seed=3).eval()
    (tmp_path / "t.pth").write_bytes(weights_bytes(network))
    with pytest.raises(ValueError, match=r"head has 7 classes, the data has 3.*--label-map.*--teacher-head fit"):
        load_teacher("mlp:8", tmp_path / "t.pth", input_shape=(5,), classes=3)
    loaded = load_teacher("mlp:8", tmp_path / "t.pth", input_shape=(5,), classes=3, own_outputs=True).eval()
    inputs = torch.randn(60, 5)
    assert torch.equal(loaded(inputs), network(inputs))
    teacher = MappedOutputs(loaded, [[6], [1], [3]]).eval()
    labels = network(inputs)[:, [6, 1, 3]].argmax(dim=1)
    assert teacher_accuracy(teacher, ArrayDataset(inputs, labels)).accuracy == 1
    outside = float(network(inputs).detach().softmax(dim=1)[:, [0, 2, 4, 5]].sum(dim=1).mean())
    assert f"teacher: {outside:.1%} of its probability went to classes that the data lacks" in " ".join(
        capsys.readouterr().out.split()
    )


def test_probabilities_of_a_mapped_teacher_are_still_recognised() -> None:
    """Restricted to some classes, probabilities no longer sum to 1."""
    network = nn.Sequential(nn.Linear(5, 7), nn.Softmax(dim=1))
    teacher = MappedOutputs(network, [[6], [1], [3]])
    with pytest.raises(ValueError, match="outputs of the teacher must be logits"):
        teacher_accuracy(teacher, ArrayDataset(torch.randn(60, 5), torch.arange(60) % 3))


@pytest.mark.parametrize("suffix", [".npy", ".csv"])
@pytest.mark.parametrize("kind", ["logits", "probabilities"])
def test_files_of_outputs_with_other_columns_are_mapped(
    kind: str, suffix: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    labels = torch.arange(30) % 3
    logits = torch.randn(30, 5) + 6 * nn.functional.one_hot(torch.tensor([4, 0, 2])[labels], 5)
    values: Tensor = logits if kind == "logits" else logits.double().softmax(dim=1)
    path = tmp_path / f"t{suffix}"
    if suffix == ".npy":
        np.save(path, values.numpy())
    else:
        rows = [",".join(map(repr, row)) for row in values.tolist()]
        path.write_text("\n".join(["hound,ant,bull,bee,tabby", *rows]))
    text = "4,cat\n0,dog\n2,cow\n" if suffix == ".npy" else "tabby,cat\nhound,dog\nbull,cow\n"
    options = {"labels": labels, "classes": 3, "kind": kind, "class_names": NAMES}
    with pytest.raises(ValueError, match=r"3 columns.*--label-map FILE\.csv.*embeddings=FILE"):
        read_logits(path, **options)  # type: ignore[arg-type]
    read = read_logits(path, **options, label_map=write(tmp_path, text))  # type: ignore[arg-type]
    expected = logits[:, [4, 0, 2]].softmax(dim=1)
    torch.testing.assert_close(read.logits.softmax(dim=1), expected, atol=1e-5, rtol=1e-4)
    assert "of its probability went to classes that the data lacks (30 rows)" in " ".join(
        capsys.readouterr().out.split()
    )


def test_rows_of_a_map_need_no_file() -> None:
    rows = [MapRow(1, "1", "cat"), MapRow(2, "0", "dog"), MapRow(3, "2", "cow")]
    assert find_members(rows, NAMES, outputs=3) == [[1], [0], [2]]
