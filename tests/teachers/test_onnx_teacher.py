"""ONNX teachers return the logits of their network, whatever the file's layout, batch size and last operator."""

from __future__ import annotations

import copy
import pickle
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from kd.evaluation.metrics import count_parameters
from kd.storage.fingerprint import describe
from kd.teachers.onnx_graph import count_weights
from kd.teachers.onnx_teacher import load_onnx, takes_bytes
from tests.onnx_files import edit, linear, log_shares, write_onnx

pytest.importorskip("onnxruntime", reason="needs the onnx extra")
SHAPE, CLASSES = (3, 2, 4), 5
INPUTS = torch.randn(7, *SHAPE, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def layer() -> nn.Linear:
    return linear(24, CLASSES)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"shape": ("n", *SHAPE)}, "[3, 2, 4] of torch.float32 (channels first), output 'scores'"),
        ({"shape": (1, *SHAPE)}, "1 at a time"),
        ({"shape": (4, *SHAPE)}, "4 at a time"),
        ({"shape": ("n", "c", "h", "w")}, "[?, ?, ?]"),
        ({"shape": ("n", 2, 4, 3), "transpose": (0, 3, 1, 2)}, "channels first here, last in the file"),
        ({"shape": ("n", "h", "w", 3), "transpose": (0, 3, 1, 2)}, "channels first here, last in the file"),
        ({"shape": ("n", 24)}, "[24] of torch.float32"),
        ({"shape": ("n", *SHAPE), "kind": "DOUBLE"}, "torch.float64"),
        ({"shape": ("n", *SHAPE), "after": "Softmax"}, "the input of the softmax before output 'scores'"),
        ({"shape": ("n", *SHAPE), "after": "LogSoftmax"}, "output 'scores'"),
        ({"shape": ("n", *SHAPE), "outputs": ("logits", "features", "copy")}, "output 'logits'"),
        ({"shape": ("n", *SHAPE), "outputs": ("scores", "features")}, "output 'scores'"),
    ],
)
def test_its_logits_are_those_of_the_network(
    tmp_path: Path, layer: nn.Linear, settings: dict[str, Any], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    teacher = load_onnx(write_onnx(tmp_path / "t.onnx", layer, **settings), input_shape=SHAPE, classes=CLASSES)
    assert said in " ".join(capsys.readouterr().out.split())
    np.testing.assert_allclose(log_shares(teacher(INPUTS)), log_shares(layer(INPUTS.flatten(1))), atol=1e-4)


@pytest.mark.parametrize("shape", [("n", 4, 6), (2, "h", "w")])
def test_grey_images_may_have_no_axis_of_channels(
    tmp_path: Path, layer: nn.Linear, shape: tuple[int | str, ...]
) -> None:
    teacher = load_onnx(write_onnx(tmp_path / "t.onnx", layer, shape=shape), input_shape=(1, 4, 6), classes=CLASSES)
    np.testing.assert_allclose(teacher(INPUTS.reshape(-1, 1, 4, 6)), layer(INPUTS.flatten(1)).detach(), atol=1e-4)


def test_a_softmax_does_not_round_far_classes_away(tmp_path: Path) -> None:
    layer = linear(24, CLASSES)
    layer.weight.data *= 100  # probabilities far below what float32 can hold
    file = write_onnx(tmp_path / "t.onnx", layer, shape=("n", *SHAPE), after="Softmax")
    logits = load_onnx(file, input_shape=SHAPE, classes=CLASSES)(INPUTS)
    np.testing.assert_allclose(log_shares(logits / 500), log_shares(layer(INPUTS.flatten(1)) / 500), atol=1e-3)


def test_a_softmax_may_be_written_out_but_must_be_one(tmp_path: Path, layer: nn.Linear) -> None:
    expected = layer(INPUTS.flatten(1))

    def write_out(model: Any, *, axis: int) -> None:  # as JAX does: exp(z) / sum(exp(z))
        del model.graph.node[-1]
        model.graph.node.add(op_type="Exp", input=["raw"], output=["e"])
        axes = model.graph.initializer.add(name="axes", data_type=7, dims=[1], int64_data=[axis])
        model.graph.node.add(op_type="ReduceSum", input=["e", axes.name], output=["sum"])
        model.graph.node.add(op_type="Div", input=["e", "sum"], output=["scores"])

    for axis, softmax in ((1, "scores"), (0, "")):
        file = write_onnx(tmp_path / "t.onnx", layer, shape=("n", *SHAPE))
        teacher = load_onnx(edit(file, partial(write_out, axis=axis)), input_shape=SHAPE, classes=CLASSES)
        assert teacher.graph.softmax == softmax
        right = expected.log_softmax(1) if softmax else expected.softmax(0)
        got = teacher(INPUTS).log_softmax(1) if softmax else teacher(INPUTS)
        torch.testing.assert_close(got, right, atol=1e-4, rtol=1e-4)


def test_probabilities_of_other_operators_become_logarithms_and_sigmoids_stay_suspicious(
    tmp_path: Path, layer: nn.Linear, capsys: pytest.CaptureFixture[str]
) -> None:
    file = write_onnx(tmp_path / "t.onnx", layer, shape=("n", *SHAPE), after="Softmax")

    def hide(model: Any) -> None:  # a softmax that is not the last operator, as after quantisation
        model.graph.node[-1].output[0] = "hidden"
        model.graph.node.add(op_type="Relu", input=["hidden"], output=["scores"])

    teacher = load_onnx(edit(file, hide), input_shape=SHAPE, classes=CLASSES)
    assert "probabilities, as logits by the logarithm" in " ".join(capsys.readouterr().out.split())
    expected = layer(INPUTS.flatten(1)).softmax(1).clamp(min=1e-6).log()
    torch.testing.assert_close(teacher(INPUTS), expected, atol=1e-4, rtol=1e-4)


def test_bytes_and_tokens(tmp_path: Path, layer: nn.Linear) -> None:
    stored = torch.randint(0, 256, (7, *SHAPE), dtype=torch.uint8)
    expected = layer(stored.flatten(1).float())
    bytes_file = write_onnx(tmp_path / "b.onnx", layer, shape=("n", *SHAPE), kind="UINT8")
    teacher = load_onnx(bytes_file, input_shape=SHAPE, classes=CLASSES)
    assert takes_bytes(bytes_file)
    assert not takes_bytes(write_onnx(tmp_path / "f.onnx", layer, shape=("n", 24)))
    for inputs in (stored, stored.float() + 1e-4):
        torch.testing.assert_close(teacher(inputs), expected, atol=1e-2, rtol=1e-3)
    for wrong in (stored.float() / 255, stored.float() - 10):
        with pytest.raises(ValueError, match=r"whole numbers of torch.uint8. Got values from .*--teacher-input 0-255"):
            teacher(wrong)
    tokens = torch.randint(0, 9, (7, 24))
    for kind in ("INT32", "INT64"):
        file = write_onnx(tmp_path / f"{kind}.onnx", layer, shape=("n", 24), kind=kind)
        teacher = load_onnx(file, input_shape=(24,), classes=CLASSES, example=tokens[0])
        torch.testing.assert_close(teacher(tokens), layer(tokens.float()), atol=1e-4, rtol=1e-4)
    floats = write_onnx(tmp_path / "f.onnx", layer, shape=("n", 24))
    with pytest.raises(ValueError, match=r"takes numbers of torch.float32. Got integers of torch.int64, which are tok"):
        load_onnx(floats, input_shape=(24,), classes=CLASSES)(tokens)


def test_its_parameters_are_the_weights_in_the_file(tmp_path: Path, layer: nn.Linear) -> None:
    onnx = pytest.importorskip("onnx")
    file = write_onnx(tmp_path / "t.onnx", layer, shape=("n", *SHAPE))
    weights = sum(parameter.numel() for parameter in layer.parameters())
    teacher = load_onnx(file, input_shape=SHAPE)
    assert count_parameters(teacher) == weights
    assert count_parameters(nn.Sequential(teacher, nn.Linear(5, 3))) == weights + 18

    def quantise(model: Any) -> None:  # and store the bias as a constant, as some programs do
        graph = model.graph
        bias = next(tensor for tensor in graph.initializer if tensor.name == "b")
        graph.node.insert(0, onnx.helper.make_node("Constant", [], ["b"], value=bias))
        graph.initializer.remove(bias)
        kept = [onnx.numpy_helper.from_array(np.zeros((5, 24), np.int8), "q")]
        kept += [onnx.numpy_helper.from_array(np.zeros(value, dtype), name) for value, dtype, name in OTHERS]
        graph.initializer.extend(kept)

    assert count_weights(edit(file, quantise).read_bytes()) == weights + 5 * 24


OTHERS: list[tuple[Any, Any, str]] = [((), np.float32, "scale"), ((5,), np.int8, "zero"), ((4, 4), np.int64, "shape")]


def test_copies_are_equal_and_the_state_dict_holds_the_file(tmp_path: Path, layer: nn.Linear) -> None:
    first, second = (
        load_onnx(write_onnx(tmp_path / "t.onnx", net, shape=("n", *SHAPE)), input_shape=SHAPE, classes=CLASSES)
        for net in (layer, linear(24, CLASSES, seed=1))
    )
    before = first(INPUTS)
    for other in (copy.deepcopy(first), pickle.loads(pickle.dumps(first))):
        assert torch.equal(other(INPUTS), before)
        assert describe(other) == describe(first) != describe(second)
    assert not torch.equal(second(INPUTS), before)
    second.load_state_dict(first.state_dict())
    assert torch.equal(second(INPUTS), before)
    assert not list(first.parameters())


def test_results_do_not_depend_on_the_split_into_batches(tmp_path: Path, layer: nn.Linear) -> None:
    file = write_onnx(tmp_path / "t.onnx", layer, shape=(3, *SHAPE))
    teacher = load_onnx(file, input_shape=SHAPE, classes=CLASSES)
    whole = teacher(INPUTS)
    assert torch.equal(torch.cat([teacher(part) for part in INPUTS.split(2)]), whole)


@pytest.mark.parametrize(("classes", "remedy"), [(2, r"\[0, z\] for a score z"), (4, "--teacher embeddings=FILE")])
def test_a_single_output_has_its_own_remedy(tmp_path: Path, classes: int, remedy: str) -> None:
    file = write_onnx(tmp_path / "t.onnx", linear(24, 1), shape=("n", *SHAPE))
    with pytest.raises(ValueError, match=rf"has 1 output, the data has {classes} classes\..*{remedy}"):
        load_onnx(file, input_shape=SHAPE, classes=classes)


@pytest.mark.parametrize(
    ("settings", "arguments", "message"),
    [
        ({}, {"classes": 4}, r"has 5 classes, the data has 4.*--label-map.*--teacher embeddings=FILE"),
        ({}, {"output": "score"}, r"no output 'score'. It has scores \[\?, 5\].*Did you mean scores"),
        ({"outputs": ("a", "copy")}, {}, r"several of its outputs could be the logits: a .*copy .*FILE.onnx::OUTPUT"),
        ({"after": "Magic", "domain": "my.company"}, {}, r"ONNX Runtime cannot run it.*Custom operators"),
        ({"kind": "BOOL"}, {}, r"its input must be of one of tensor\(float\).*Got x \[\?, 3, 2, 4\] of tensor\(bool\)"),
    ],
)
def test_what_cannot_be_used_is_refused_in_words(
    tmp_path: Path, layer: nn.Linear, settings: dict[str, Any], arguments: dict[str, Any], message: str
) -> None:
    file = write_onnx(tmp_path / "t.onnx", layer, **{"shape": ("n", *SHAPE), **settings})
    with pytest.raises(ValueError, match=message):
        load_onnx(file, **{"input_shape": SHAPE, "classes": CLASSES, **arguments})


def test_other_inputs_are_refused_in_words(tmp_path: Path, layer: nn.Linear) -> None:
    file = write_onnx(tmp_path / "t.onnx", layer, shape=("n", *SHAPE))
    teacher = load_onnx(file, input_shape=(3, 8, 8), classes=CLASSES)  # a size that --teacher-input may adapt
    assert teacher.input_shape == SHAPE
    with pytest.raises(ValueError, match=r"takes inputs \[3, 2, 4\] \(channels first\). Got \[3, 8, 8\].*--teacher-in"):
        teacher(torch.zeros(1, 3, 8, 8))


def test_two_inputs_are_refused(tmp_path: Path, layer: nn.Linear) -> None:
    onnx = pytest.importorskip("onnx", reason="needs the onnx extra")
    file = write_onnx(tmp_path / "t.onnx", layer, shape=("n", *SHAPE))
    more = onnx.helper.make_tensor_value_info("mask", onnx.TensorProto.FLOAT, ["n", 2])
    with pytest.raises(ValueError, match=r"it must have one input. Got 2: x .*, mask \[\?, 2\]"):
        load_onnx(edit(file, lambda model: model.graph.input.append(more)), input_shape=SHAPE, classes=CLASSES)


@pytest.mark.parametrize("where", ["../secret", "w.bin", "/etc/passwd"])
def test_tensors_in_other_files_are_never_read(tmp_path: Path, layer: nn.Linear, where: str) -> None:
    onnx = pytest.importorskip("onnx", reason="needs the onnx extra")
    (tmp_path / "w.bin").write_bytes(bytes(24 * 5 * 4))

    def move(model: Any) -> None:
        tensor = model.graph.initializer[0]
        tensor.ClearField("raw_data")
        tensor.data_location = onnx.TensorProto.EXTERNAL
        tensor.external_data.add(key="location", value=where)

    file = edit(write_onnx(tmp_path / "t.onnx", layer, shape=("n", *SHAPE)), move)
    with pytest.raises(ValueError, match=r"1 of its tensors are in other files, such as 'w'. Save the model as one"):
        load_onnx(file, input_shape=SHAPE, classes=CLASSES)


def test_external_tensors_are_found_inside_nested_graphs_and_attributes(tmp_path: Path, layer: nn.Linear) -> None:
    onnx = pytest.importorskip("onnx", reason="needs the onnx extra")
    hidden = onnx.TensorProto(name="hidden", data_type=1, dims=[1], data_location=onnx.TensorProto.EXTERNAL)
    hidden.external_data.add(key="location", value="/etc/passwd")
    constant = onnx.NodeProto(op_type="Constant", output=["c"])
    constant.attribute.add(name="value", type=onnx.AttributeProto.TENSOR, t=hidden)

    def nest(model: Any) -> None:
        branch = onnx.GraphProto(name="branch", node=[constant])
        node = model.graph.node.add(op_type="If", input=["x"], output=["unused"])
        node.attribute.add(name="then_branch", type=onnx.AttributeProto.GRAPH, g=branch)

    for change in (lambda model: model.graph.node.append(constant), nest):
        file = edit(write_onnx(tmp_path / "t.onnx", layer, shape=("n", *SHAPE)), change)
        with pytest.raises(ValueError, match=r"1 of its tensors are in other files, such as 'hidden'"):
            load_onnx(file, input_shape=SHAPE, classes=CLASSES)


@pytest.mark.parametrize("content", [b"", b"hello", b"PK\x03\x04" + bytes(40), bytes(100)])
def test_other_files_and_damaged_ones_are_refused(tmp_path: Path, content: bytes, layer: nn.Linear) -> None:
    whole = write_onnx(tmp_path / "t.onnx", layer, shape=("n", *SHAPE)).read_bytes()
    for damaged in (content, whole[:-40], whole[: len(whole) // 2]):
        (tmp_path / "t.onnx").write_bytes(damaged)
        with pytest.raises(ValueError, match=r"t.onnx cannot be used as a teacher"):
            load_onnx(tmp_path / "t.onnx", input_shape=SHAPE, classes=CLASSES)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # of the exporter
def test_a_keras_model_exported_as_the_documentation_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KERAS_BACKEND", "torch")
    keras = pytest.importorskip("keras", reason="needs Keras, with torch as its backend")
    layers = keras.layers
    model = keras.Sequential(
        [
            keras.Input((8, 6, 3)),
            layers.Conv2D(4, 3, activation="relu"),
            layers.GlobalAveragePooling2D(),
            layers.Dense(5, activation="softmax"),
        ]
    )
    model(torch.zeros(1, 8, 6, 3))
    model.export(str(tmp_path / "t.onnx"), format="onnx", verbose=False)
    teacher = load_onnx(tmp_path / "t.onnx", input_shape=(3, 8, 6), classes=5)
    assert teacher.graph.is_channels_last
    assert teacher.graph.softmax
    inputs = torch.randn(3, 3, 8, 6)
    expected = model(inputs.movedim(1, -1), training=False).detach().cpu()
    torch.testing.assert_close(teacher(inputs).softmax(1), expected, atol=1e-4, rtol=1e-4)
