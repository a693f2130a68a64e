"""Devices by name: known devices, the automatic choice, and errors."""

from __future__ import annotations

import pytest
import torch

from kd.devices import device_named, require_device


@pytest.mark.parametrize("name", ["cpu", "cuda", "cuda:1", "mps"])
def test_a_device_by_its_name(name: str) -> None:
    assert device_named(name) == torch.device(name)


@pytest.mark.parametrize(("available", "expected"), [(True, "cuda"), (False, "cpu")])
def test_auto_is_cuda_if_available(available: bool, expected: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: available)
    assert device_named("auto") == torch.device(expected)


def test_an_unknown_kind_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ValueError, match=r"--device must be cpu, cuda, cuda:N or mps\. Got 'gpu' instead\."):
        device_named("gpu")
    with pytest.raises(ValueError, match=r"^device must be cpu, cuda, cuda:N or mps\. Got 'gpu' instead\."):
        device_named("gpu", setting="device")


def test_an_unavailable_device_is_refused_with_the_settings_name() -> None:
    require_device(torch.device("cpu"), "DEVICE")
    with pytest.raises(ValueError, match=r"DEVICE must be a device of this machine\. Got 'cuda:99' instead"):
        require_device(torch.device("cuda:99"), "DEVICE")
