"""Fake-quantised models: float networks with the outputs of an int8 model, which can be trained further.

    student = quantise(student, batches)  # post-training quantization, calibrated on these inputs
    kd.fit(student, objective, …)  # quantization-aware distillation: any objective, any loader
    deployed = Deployed(student, preprocessing, input_shape)
    content = to_onnx(for_onnx(deployed), example)  # kd.deploy.formats: an int8 ONNX file of the same function

Inputs of convolutions and linear layers are rounded to uint8 with one affine scale per tensor, their weights to int8
with one symmetric scale per output channel, −64 to 64, and their biases to int32, as in onnxruntime's quantized
operators. All other operations stay float. Gradients pass the rounding unchanged, except where an input is clipped (the
straight-through estimator; Jacob et al. 2018, arXiv:1712.05877).
"""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval, fuse_linear_bn_eval

from kd.checks import require
from kd.models.inference import device_of, evaluating

_LAYERS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)  # exact types: a subclass may use its weights in other ways
_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
_MOMENTUM = 0.01  # of the running ranges of activations, per training step
_LARGEST_WEIGHT = 64  # 7 of 8 bits, since sums of two products by processors without VNNI saturate at 16 bits
_LARGEST_BIAS = 2**30  # fits into int32 with room for the products that are added to it


class QuantisedLayer(nn.Module):
    """A convolution or linear layer whose inputs, weights and bias are rounded to integers.

    Attributes:
        layer: the layer with its float weights, which are trained.
        low, high: range of the inputs, low ≤ 0 ≤ high. In training mode it follows the batches, as a moving average.
        calibrating: whether the range grows to hold every input.
    """

    low: Tensor
    high: Tensor

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer: Any = layer
        self.calibrating, device = False, device_of(layer)
        self.register_buffer("low", torch.zeros((), device=device))
        self.register_buffer("high", torch.zeros((), device=device))

    def forward(self, inputs: Tensor) -> Tensor:
        if self.calibrating or self.training:
            self._observe(inputs.detach().float())
        scale, zero = self.input_scale()
        weights, bias, weight_scale = self.layer.weight, self.layer.bias, self.weight_scale()
        by_channel = _by_channel(weight_scale, weights)
        parts: dict[str, Tensor] = {"weight": _round(weights / by_channel) * by_channel}
        if bias is not None:
            parts["bias"] = _round(bias / (scale * weight_scale)) * (scale * weight_scale)
        rounded = (_round(inputs / scale) + zero).clamp(0, 255) - zero
        output: Tensor = torch.func.functional_call(self.layer, parts, (rounded * scale,))
        return output

    def input_scale(self) -> tuple[Tensor, Tensor]:
        """Return scale and zero point of the inputs, scalars; the zero point is a whole number in [0, 255]."""
        width = self.high - self.low
        scale = torch.where(width > 0, width / 255, 1.0).clamp(min=torch.finfo(torch.float32).tiny)
        return scale, (-self.low / scale).round()

    def weight_scale(self) -> Tensor:
        """Return the scale of each output channel, [C], above 0. It follows weights and bias, without a gradient.

        A channel of weights that are tiny, compared with its bias, gets a larger scale, so that the bias fits.
        """
        scale: Tensor = self.layer.weight.detach().float().flatten(1).abs().amax(1) / _LARGEST_WEIGHT
        if self.layer.bias is not None:
            scale = scale.maximum(self.layer.bias.detach().abs() / (self.input_scale()[0] * _LARGEST_BIAS))
        return torch.where(scale > 0, scale, 1.0).clamp(min=torch.finfo(torch.float32).tiny)

    def _observe(self, inputs: Tensor) -> None:
        low, high = inputs.aminmax()
        if self.calibrating:
            torch.minimum(self.low, low, out=self.low)
            torch.maximum(self.high, high, out=self.high)
        else:
            self.low.lerp_(low.clamp(max=0), _MOMENTUM)
            self.high.lerp_(high.clamp(min=0), _MOMENTUM)


def _round(values: Tensor) -> Tensor:
    """Return whole numbers; the gradient passes as if they were not rounded."""
    return values + (values.round() - values).detach()


def _by_channel(scale: Tensor, weights: Tensor) -> Tensor:
    return scale.reshape(-1, *[1] * (weights.ndim - 1))


def quantise(model: nn.Module, batches: Iterable[Tensor]) -> nn.Module:
    """Return a fake-quantised copy of the model, calibrated on batches of inputs. It can be trained like any model.

    Batch norms that directly follow a convolution or linear layer are folded into it first, so that a quantized layer
    is one operation; others stay float.

    Args:
        model: a trained model; not modified.
        batches: inputs [N, …] that show the ranges of all activations, such as a few hundred training samples.

    Raises:
        ValueError: the model has no convolution or linear layer, it uses the weights of one directly, or there is no
            batch.
    """
    quantised = copy.deepcopy(model)
    with evaluating(quantised):
        fold_batch_norms(quantised)
    _replace(quantised, _LAYERS, QuantisedLayer)
    layers = [module for module in quantised.modules() if isinstance(module, QuantisedLayer)]
    names = ", ".join(kind.__name__ for kind in _LAYERS)
    require(bool(layers), "model", type(model).__name__, f"a network with layers of the types {names}")
    _calibrate(quantised, layers, batches)
    return quantised


def _calibrate(model: nn.Module, layers: list[QuantisedLayer], batches: Iterable[Tensor]) -> None:
    count, device = 0, device_of(model)
    for layer in layers:
        layer.calibrating = True
    try:
        with evaluating(model), torch.no_grad():
            for inputs in batches:
                model(inputs.to(device, copy=True))  # the model may change its inputs in place
                count += 1
    except AttributeError as error:  # of a network that reads the weights of a replaced layer
        raise ValueError(
            f"{type(model).__name__} cannot be quantized: it uses the weights of a layer outside the layer ({error})."
        ) from error
    finally:
        for layer in layers:
            layer.calibrating = False
    require(count > 0, "batches", count, "at least one batch of inputs, to measure the ranges of activations")


def _replace(model: nn.Module, kinds: tuple[type[nn.Module], ...], make: Callable[[Any], nn.Module]) -> None:
    """Replace all submodules of exactly these types in place; one that is used twice is replaced by one module."""
    replaced: dict[nn.Module, nn.Module] = {}
    for parent in list(model.modules()):
        for name, child in list(parent._modules.items()):  # named_children omits a second name of the same module
            if child is not None and type(child) in kinds and not isinstance(parent, QuantisedLayer):
                # The layer's own mode is lost when it is folded. New modules are in training mode.
                setattr(parent, name, replaced.setdefault(child, make(child)).train(parent.training))


def fold_batch_norms(model: nn.Module) -> None:
    """Fold batch norms in eval mode into the layers that they follow, in place; the function stays the same.

    A network that ``torch.fx`` cannot trace, and pairs that are used more than once, keep their batch norms.
    """
    try:
        nodes = list(torch.fx.symbolic_trace(model).graph.nodes)
    except Exception:  # control flow that depends on data; only speed is lost
        return
    uses = Counter(node.target for node in nodes if node.op == "call_module")
    for node in nodes:
        before, target = node.args[0] if node.args else None, str(node.target)
        if node.op != "call_module" or not isinstance(before, torch.fx.Node) or before.op != "call_module":
            continue
        layer, norm = model.get_submodule(str(before.target)), model.get_submodule(target)
        is_pair = type(layer) in _LAYERS and type(norm) in _NORMS and len(before.users) == 1
        if is_pair and uses[before.target] == uses[node.target] == 1 and norm.running_mean is not None:
            fuse: Any = fuse_linear_bn_eval if isinstance(layer, nn.Linear) else fuse_conv_bn_eval
            model.set_submodule(str(before.target), fuse(layer, norm))
            model.set_submodule(target, nn.Identity())


class _OnnxLayer(nn.Module):
    """A quantised layer in ONNX operators, with its weights as integers. It can only be exported, not run."""

    def __init__(self, quantised: QuantisedLayer) -> None:
        super().__init__()
        self.layer: Any = quantised.layer
        weights, bias = quantised.layer.weight, quantised.layer.bias
        (scale, zero), weight_scale = quantised.input_scale(), quantised.weight_scale()
        self.register_buffer("scale", scale)
        self.register_buffer("zero", zero.to(torch.uint8))
        self.register_buffer("weight_scale", weight_scale)
        self.register_buffer("weights", (weights.detach() / _by_channel(weight_scale, weights)).round().to(torch.int8))
        self.register_buffer("weight_zero", torch.zeros_like(weight_scale, dtype=torch.int8))
        if bias is not None:
            bias_scale = scale * weight_scale
            self.register_buffer("bias", (bias.detach() / bias_scale).round().to(torch.int32))
            self.register_buffer("bias_scale", bias_scale)
            self.register_buffer("bias_zero", torch.zeros_like(bias_scale, dtype=torch.int32))

    def forward(self, inputs: Tensor) -> Tensor:
        rounded = _onnx("QuantizeLinear", inputs, self.scale, self.zero, dtype=torch.uint8)
        parts = {"weight": _onnx("DequantizeLinear", self.weights, self.weight_scale, self.weight_zero)}
        if self.layer.bias is not None:
            parts["bias"] = _onnx("DequantizeLinear", self.bias, self.bias_scale, self.bias_zero)
        inputs = _onnx("DequantizeLinear", rounded, self.scale, self.zero)
        output: Tensor = torch.func.functional_call(self.layer, parts, (inputs,))
        return output


def _onnx(name: str, values: Any, scale: Any, zero: Any, *, dtype: torch.dtype = torch.float32) -> Tensor:
    attributes: dict[str, Any] = {"axis": 0} if scale.ndim else {}
    output: Tensor = torch.onnx.ops.symbolic(name, [values, scale, zero], attributes, dtype=dtype, shape=values.shape)
    return output


def for_onnx(model: nn.Module) -> nn.Module:
    """Return a copy of a fake-quantised model, or of one that contains it, for ``kd.deploy.formats.to_onnx``.

    Its quantized layers become QuantizeLinear and DequantizeLinear nodes around the float operator, which onnxruntime
    replaces by its integer operators.
    """
    exported = copy.deepcopy(model).cpu()
    exported.eval()
    _replace(exported, (QuantisedLayer,), _OnnxLayer)
    return exported
