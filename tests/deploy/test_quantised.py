"""Fake-quantised models: the formula, folding, gradients, training, and equality with their int8 ONNX files."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import kd
from kd.data.datasets import ArrayDataset
from kd.data.loaders import make_loader
from kd.deploy.deployed import Deployed
from kd.deploy.formats import to_onnx
from kd.deploy.manifest import Preprocessing
from kd.deploy.quantised import QuantisedLayer, fold_batch_norms, for_onnx, quantise
from kd.models import CNN, MLP, ConvNet
from kd.models.inference import predict
from kd.storage.run_folder import open_run
from kd.training import run_steps


def images(count: int = 64, *, seed: int = 0, shape: tuple[int, ...] = (1, 28, 28)) -> Tensor:
    return torch.randn(count, *shape, generator=torch.Generator().manual_seed(seed))


class Depthwise(nn.Module):
    """Depthwise and pointwise convolutions, with batch norms in between and a sum of two branches."""

    def __init__(self) -> None:
        super().__init__()
        self.depthwise, self.first = nn.Conv2d(1, 4, 3, bias=False), nn.BatchNorm2d(4)
        self.pointwise, self.second = nn.Conv2d(4, 8, 1), nn.BatchNorm2d(8)
        self.branch, self.output = nn.Conv2d(4, 8, 1), nn.Linear(8, 10)

    def forward(self, inputs: Tensor) -> Tensor:
        maps = self.first(self.depthwise(inputs)).relu()
        logits: Tensor = self.output((self.second(self.pointwise(maps)) + self.branch(maps)).mean(dim=(2, 3)))
        return logits


def trained(make: Callable[[], nn.Module]) -> nn.Module:
    """Return a network with random weights, and running statistics and affine parameters unlike those at the start."""
    with kd.seeded(1):
        model = make()
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                nn.init.normal_(module.weight)  # also negative
                nn.init.normal_(module.bias)
        model.train()
        for seed in range(3):
            model(images(seed=seed) * 2 + 1)
    return model.eval()


MODELS: dict[str, Callable[[], nn.Module]] = {
    "mlp": lambda: MLP(32),
    "cnn": lambda: CNN(4, (1, 28, 28), 10),
    "convnet": ConvNet,
    "depthwise": Depthwise,
}


INTEGER_LAYERS = {"mlp": 2, "cnn": 3, "convnet": 4, "depthwise": 2}


@pytest.mark.parametrize("training", [False, True])
def test_the_layers_have_the_mode_of_the_model(training: bool) -> None:
    """In training mode, inference would move the ranges of the inputs."""
    quantised = quantise(trained(Depthwise).train(training), [images()])
    assert {module.training for module in quantised.modules() if isinstance(module, QuantisedLayer)} == {training}
    before = copy.deepcopy(quantised.state_dict())
    quantised(images() * 9)
    unchanged = all(torch.equal(tensor, before[name]) for name, tensor in quantised.state_dict().items())
    assert unchanged == (not training)


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] if name != "depthwise" else []) for name in MODELS]
)
def test_the_int8_onnx_file_equals_the_fake_quantised_model(name: str, tmp_path: Path) -> None:
    for module in ("onnx", "onnxscript"):
        pytest.importorskip(module, reason="needs the export extra")
    runtime = pytest.importorskip("onnxruntime", reason="needs the export extra")
    model = trained(MODELS[name])
    quantised = quantise(model, [images()])
    with torch.no_grad():  # ranges that are learned, not only calibrated
        quantised.train()(images(seed=5) * 1.5)
        expected = quantised.eval()(images(33, seed=9))
    options = runtime.SessionOptions()
    options.intra_op_num_threads, options.optimized_model_filepath = 1, str(tmp_path / "optimised.onnx")
    options.log_severity_level = 3  # the optimised model is for this machine only, it warns
    deployed = Deployed(quantised, Preprocessing(scale=1, mean=(), std=()), (1, 28, 28))
    content = to_onnx(for_onnx(deployed), images(2))
    session = runtime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    (logits,) = session.run(["logits"], {"inputs": images(33, seed=9).numpy()})
    # A float sum in another order can move a value across a rounding boundary, by one step of one activation.
    difference, spread = np.abs(logits - expected.numpy()), float(expected.std())
    assert float(np.median(difference)) < 1e-5 * spread
    assert float(difference.max()) < 0.05 * spread
    import onnx

    kinds = [node.op_type for node in onnx.load(str(tmp_path / "optimised.onnx")).graph.node]
    # onnxruntime computes these in integers; the others feed a mean, a sum or a batch norm of floats.
    assert sum(kind in {"QLinearConv", "QGemm"} for kind in kinds) == INTEGER_LAYERS[name]
    floats = [i for i in onnx.load_from_string(content).graph.initializer if i.data_type == onnx.TensorProto.FLOAT]
    assert all(len(initializer.dims) <= 1 for initializer in floats)  # weights are stored as int8, scales as float


def test_a_linear_layer_equals_integer_arithmetic_written_out() -> None:
    generator = torch.Generator().manual_seed(3)
    layer = nn.Linear(6, 4)
    model = quantise(nn.Sequential(layer), [torch.randn(50, 6, generator=generator)]).eval()
    inputs = torch.randn(20, 6, generator=generator) * 1.3  # some beyond the calibrated range
    quantised = model[0]  # type: ignore[index]
    x, w = inputs.double().numpy(), layer.weight.detach().double().numpy()
    b, low, high = layer.bias.detach().double().numpy(), float(quantised.low), float(quantised.high)
    scale = (high - low) / 255
    zero = round(-low / scale)
    weight_scale = np.abs(w).max(axis=1) / 64
    x_int = np.clip(np.round(x / scale) + zero, 0, 255) - zero
    w_int, b_int = np.round(w / weight_scale[:, None]), np.round(b / (scale * weight_scale))
    expected = (x_int @ w_int.T + b_int) * scale * weight_scale
    with torch.no_grad():
        np.testing.assert_allclose(model(inputs).numpy(), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", MODELS)
def test_quantization_is_a_small_error_and_leaves_the_model_as_it_was(name: str) -> None:
    model = trained(MODELS[name])
    before = copy.deepcopy(model.state_dict())
    quantised = quantise(model, [images(), images(seed=1)])
    with torch.no_grad():
        float_logits, logits = model(images()), quantised.eval()(images())
    error = (logits - float_logits).std() / float_logits.std()
    assert 0 < error < 0.1
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())
    assert not model.training


def test_folding_changes_no_function_and_leaves_no_batch_norm_behind() -> None:
    model = trained(Depthwise)
    folded = copy.deepcopy(model)
    fold_batch_norms(folded)
    assert not [module for module in folded.modules() if isinstance(module, nn.BatchNorm2d)]
    with torch.no_grad():
        torch.testing.assert_close(folded(images()), model(images()), rtol=1e-4, atol=1e-5)


def test_a_batch_norm_whose_layer_is_used_elsewhere_and_a_network_that_cannot_be_traced_keep_theirs() -> None:
    class Shared(Depthwise):
        def forward(self, inputs: Tensor) -> Tensor:
            maps = self.depthwise(inputs)
            return self.output(self.second(self.pointwise(self.first(maps) + maps)).mean(dim=(2, 3)))  # type: ignore[no-any-return]

    class Branching(Depthwise):
        def forward(self, inputs: Tensor) -> Tensor:
            return super().forward(inputs if inputs.sum() > 0 else -inputs)

    for make, kept in ((Shared, 1), (Branching, 2)):
        model = trained(make)
        quantised = quantise(model, [images()])
        assert sum(isinstance(module, nn.BatchNorm2d) for module in quantised.modules()) == kept
        with torch.no_grad():
            assert (quantised.eval()(images()) - model(images())).std() < 0.1 * model(images()).std()


def test_gradients_pass_the_rounding_and_stop_where_a_value_is_clipped() -> None:
    layer = QuantisedLayer(nn.Linear(3, 1, bias=False)).eval()
    layer.low.fill_(-1)
    layer.high.fill_(1)
    inputs = torch.tensor([[0.303, 5.0, -5.0]], requires_grad=True)
    layer(inputs).sum().backward()
    gradient = inputs.grad
    assert gradient is not None
    weights = layer.layer.weight
    step = weights.detach().abs().max().item() / 64
    assert gradient[0, 0].item() == pytest.approx(weights[0, 0].item(), abs=0.51 * step)
    assert gradient[0, 1:].tolist() == [0, 0]
    assert weights.grad is not None
    torch.testing.assert_close(weights.grad[0], torch.tensor([0.303, 1, -1]), atol=0.01, rtol=0)


def test_ranges_follow_the_batches_in_training_mode_alone() -> None:
    model = quantise(MLP(8), [images()])
    layer = next(module for module in model.modules() if isinstance(module, QuantisedLayer))
    calibrated = layer.low.item(), layer.high.item()
    assert calibrated == (images().min().item(), images().max().item())
    model.eval()(images() * 10)
    assert (layer.low.item(), layer.high.item()) == calibrated
    model.train()(images() * 10)
    assert layer.high.item() == pytest.approx(calibrated[1] * (1 + 9 * 0.01))
    for _ in range(3):
        model(images() + 100)  # a range always holds 0, which padding and ReLU need
    assert layer.low.item() < 0 < layer.high.item()


def test_inputs_and_weights_of_zeros_give_the_bias() -> None:
    for weight in (0.0, 1e-12):  # the second would need a bias of more than 32 bits, with the scale of its weights
        linear = nn.Linear(4, 2)
        nn.init.constant_(linear.weight, weight)
        for calibration in (torch.zeros(5, 4), torch.ones(5, 4)):
            model = quantise(nn.Sequential(linear), [calibration]).eval()
            expected = linear.bias.detach().expand(3, 2)
            torch.testing.assert_close(model(torch.zeros(3, 4)), expected, atol=1e-6, rtol=1e-5)


def test_distillation_recovers_what_coarse_ranges_cost_and_resumes_from_its_steps(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """With an outlier in the calibration data, most inputs share few steps; training on the teacher's logits helps."""
    inputs = images(256, shape=(6,))
    with kd.seeded(2):
        teacher, student = MLP(16, input_shape=(6,), classes=3), MLP(16, input_shape=(6,), classes=3)
    student.load_state_dict(teacher.state_dict())
    logits = predict(teacher, make_loader(ArrayDataset(inputs, torch.zeros(256).long()), batch_size=64)).logits
    data = kd.DistillDataset(ArrayDataset(inputs, logits.argmax(dim=1)), logits)
    calibrated = quantise(student, [torch.cat([inputs, torch.full((1, 6), 150.0)])])
    objective, loader = kd.distilled(temperature=2.0, alpha=0.0), make_loader(data, batch_size=64)
    before = kd.evaluate(calibrated, objective, loader)["loss"]
    results = []
    for _ in range(2):
        model = copy.deepcopy(calibrated)
        with open_run(tmp_path, interval=0):
            run_steps.train_with_adam("qad", model, objective, loader, None, learning_rate=1e-2, epochs=8, seed=0)
        results.append(model.state_dict())
    assert kd.evaluate(model, objective, loader)["loss"] < 0.6 * before
    assert "qad: up to date, reused" in capsys.readouterr().out
    assert all(torch.equal(value, results[1][key]) for key, value in results[0].items())


class ReadsWeights(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 2)

    def forward(self, inputs: Tensor) -> Tensor:
        return inputs @ self.layer.weight.T


def test_models_and_data_that_cannot_be_quantised_are_refused() -> None:
    with pytest.raises(ValueError, match=r"model must be a network with layers of the types Linear, .*'ReLU'"):
        quantise(nn.ReLU(), [torch.zeros(1, 4)])
    with pytest.raises(ValueError, match="batches must be at least one batch of inputs"):
        quantise(nn.Sequential(nn.Linear(4, 2)), [])
    with pytest.raises(ValueError, match="ReadsWeights cannot be quantized: it uses the weights of a layer outside"):
        quantise(ReadsWeights(), [torch.zeros(1, 4)])


def test_a_layer_that_is_used_twice_is_quantised_once() -> None:
    shared = nn.Linear(4, 4)
    model = quantise(nn.Sequential(shared, nn.ReLU(), shared), [torch.randn(8, 4)])
    assert model[0] is model[2]  # type: ignore[index]
