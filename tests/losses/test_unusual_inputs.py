"""Losses on masked classes, common offsets, float64, missing labels, empty batches, zero heads and in torch.compile."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from functools import partial

import pytest
import torch
from torch import Tensor

from kd.checks import TEMPERATURE, require_every_label
from kd.losses import (
    ab_loss,
    at_loss,
    cat_loss,
    cc_loss,
    crd_loss,
    dist_loss,
    divergence_loss,
    dkd_loss,
    fsp_loss,
    ft_loss,
    hcl_loss,
    hint_loss,
    kd_loss,
    mgd_loss,
    nkd_loss,
    nst_loss,
    ofa_loss,
    pkt_loss,
    rkd_angle_loss,
    rkd_distance_loss,
    rld_loss,
    sdd_loss,
    semckd_loss,
    soft_cross_entropy,
    sp_loss,
    standardised,
    ttm_loss,
    vid_loss,
    virtual_logits,
    wsld_loss,
)

Loss = Callable[[Tensor, Tensor, Tensor], Tensor]
Pair = Callable[[Tensor, Tensor], Tensor]
dkd = partial(dkd_loss, temperature=3, alpha=1, beta=8)
nkd = partial(nkd_loss, temperature=3, gamma=1.5)


def sdd(student: Tensor, teacher: Tensor, labels: Tensor) -> Tensor:
    regions = (torch.stack([logits, logits.flip(0)], dim=1) for logits in (student, teacher))
    return sdd_loss(*regions, labels, temperature=4)


# Losses that read no labels take them here all the same.
OF_LOGITS: Mapping[str, Loss] = {
    "kd": lambda s, t, y: kd_loss(s, t, temperature=5),
    "kd at a trained temperature": lambda s, t, y: kd_loss(s, t, temperature=torch.tensor(3.0)),
    "reverse": lambda s, t, y: divergence_loss(s, t, temperature=3, divergence="reverse"),
    "js": lambda s, t, y: divergence_loss(s, t, temperature=3, divergence="js"),
    "skew": lambda s, t, y: divergence_loss(s, t, temperature=3, divergence="skew"),
    "skew-reverse": lambda s, t, y: divergence_loss(s, t, temperature=3, divergence="skew-reverse"),
    "soft cross-entropy": lambda s, t, y: soft_cross_entropy(s, t, temperature=2),
    "dkd": dkd,
    "nkd": nkd,
    "rld": partial(rld_loss, temperature=3, confidence_temperature=1, alpha=1, beta=8),
    "dist": lambda s, t, y: dist_loss(s, t, temperature=1, beta=1, gamma=1),
    "ttm": lambda s, t, y: ttm_loss(s, t, gamma=0.1),
    "wttm": lambda s, t, y: ttm_loss(s, t, gamma=0.2, weighted=True),
    "wsld": partial(wsld_loss, temperature=2),
    "ofa": partial(ofa_loss, gamma=1.3),
    "sdd": sdd,
    "lskd": lambda s, t, y: kd_loss(standardised(s), standardised(t), temperature=2),
    "lskd-dkd": lambda s, t, y: dkd(standardised(s), standardised(t), y),
    "teacher-free": lambda s, t, y: kd_loss(s, virtual_logits(y, s, correct=0.9), temperature=20),
}
READ_LABELS = ["dkd", "nkd", "rld", "wsld", "ofa", "sdd", "lskd-dkd", "teacher-free"]
OF_ROWS: Mapping[str, Pair] = {
    "sp": sp_loss,
    "rkd distance": rkd_distance_loss,
    "rkd angle": rkd_angle_loss,
    "pkt": pkt_loss,
    "cc": cc_loss,
}
OF_MAPS: Mapping[str, Pair] = {
    "hint": hint_loss,
    "at": at_loss,
    "at paper": partial(at_loss, form="paper"),
    "hcl": hcl_loss,
    "mgd": mgd_loss,
    "ab": ab_loss,
    "nst": nst_loss,
    "fsp": lambda student, teacher: fsp_loss([student, student], [teacher, teacher]),
    "cat": cat_loss,
    "cat normalised": partial(cat_loss, normalise=True),
    "ft": ft_loss,
    "semckd": lambda student, teacher: semckd_loss([student], [teacher], torch.ones(len(student), 1, 1)),
    "vid": lambda student, teacher: vid_loss(student, teacher, torch.ones(student.shape[1])),
}
of_logits = pytest.mark.parametrize("name", OF_LOGITS)


def make_logits(seed: int = 0, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor, Tensor]:
    """Return student and teacher logits [6, 5] and labels from 1 to 4, so that class 0 may be masked."""
    generator = torch.Generator().manual_seed(seed)
    student, teacher = 2 * torch.randn(2, 6, 5, generator=generator, dtype=torch.float64)
    return student.to(dtype), teacher.to(dtype), torch.randint(1, 5, (6,), generator=generator)


def differentiate(loss: Callable[[Tensor], Tensor], student: Tensor) -> tuple[Tensor, Tensor]:
    """Return the loss and its gradient."""
    student = student.detach().clone().requires_grad_()
    value = loss(student)
    (gradient,) = torch.autograd.grad(value, student)
    return value.detach(), gradient


def mask(logits: Tensor, value: float = -math.inf) -> Tensor:
    """Return the logits with class 0 masked in half of the rows."""
    masked = logits.clone()
    masked[::2, 0] = value
    return masked


@of_logits
def test_a_class_that_the_teacher_masks_gives_the_limit_of_a_low_logit(name: str) -> None:
    student, teacher, labels = make_logits()
    loss, gradient = differentiate(lambda s: OF_LOGITS[name](s, mask(teacher), labels), student)
    assert math.isfinite(loss.item())
    assert bool(gradient.isfinite().all())
    # A low finite logit would change the mean and the deviation of its row, and make the reverse KL divergence large.
    if "lskd" not in name and name != "reverse":
        limit = differentiate(lambda s: OF_LOGITS[name](s, mask(teacher, -1e6), labels), student)
        torch.testing.assert_close((loss, gradient), limit, rtol=1e-9, atol=1e-12)


# Standardising reads the values of all classes, and teacher-free has no teacher.
@pytest.mark.parametrize("name", sorted({*OF_LOGITS} - {"lskd", "lskd-dkd", "teacher-free"}))
@pytest.mark.parametrize("columns", [[0], [0, 1]])
def test_classes_that_both_mask_add_nothing(name: str, columns: list[int]) -> None:
    student, teacher, labels = make_logits()
    labels, kept = labels.clamp(min=2), [column for column in range(5) if column not in columns]
    masked = [logits.index_fill(1, torch.tensor(columns), -math.inf) for logits in (student, teacher)]
    loss, gradient = differentiate(lambda s: OF_LOGITS[name](s, masked[1], labels), masked[0])
    assert math.isfinite(loss.item())
    assert bool(gradient.isfinite().all())
    if name != "dist":  # it averages over all columns, also over constant ones
        labels -= len(columns)
        rest = differentiate(lambda s: OF_LOGITS[name](s, teacher[:, kept], labels), student[:, kept])
        torch.testing.assert_close((loss, gradient[:, kept]), rest, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("name", sorted({*OF_LOGITS} - {"teacher-free"}))
def test_rows_of_masked_classes_alone_have_no_plausible_loss(name: str) -> None:
    student, teacher, labels = make_logits()
    teacher[2] = -math.inf
    for logits in (student, torch.where(teacher == -math.inf, teacher, student)):
        assert not math.isfinite(OF_LOGITS[name](logits, teacher, labels).item())


def test_standardised_logits_of_the_unmasked_classes_are_those_without_the_masked() -> None:
    logits, _, _ = make_logits()
    scores = standardised(torch.cat([logits, torch.full((6, 2), -math.inf, dtype=logits.dtype)], dim=1))
    torch.testing.assert_close(scores[:, :5], standardised(logits), rtol=1e-12, atol=1e-12)
    assert bool((scores[:, 5:] == -math.inf).all())
    rows = logits.float()
    expected = (rows - rows.mean(dim=1, keepdim=True)) / (rows.std(dim=1, keepdim=True) + 1e-7)
    for same in (rows, rows.clone().requires_grad_()):
        assert torch.equal(standardised(same), expected)  # bit for bit where nothing is masked


@pytest.mark.parametrize("loss", [dkd, nkd])
def test_a_teacher_that_masks_all_classes_but_the_label_teaches_nothing_about_the_others(loss: Loss) -> None:
    student, _, labels = make_logits()
    certain = torch.full_like(student, -math.inf).scatter(1, labels.unsqueeze(1), 1.0)
    value, gradient = differentiate(lambda s: loss(s, certain, labels), student)
    label_only, _ = differentiate(lambda s: loss(s, certain.clamp(min=-1e6), labels), student)
    assert 0 < value.item() < label_only.item()
    assert bool(gradient.isfinite().all())


@pytest.mark.parametrize("loss", [dkd, nkd])
@pytest.mark.parametrize("offset", [4096.0, -4096.0])
def test_a_common_offset_costs_dkd_and_nkd_no_digits(loss: Loss, offset: float) -> None:
    student, teacher, labels = make_logits()
    # Multiples of 1/512, so that adding the offset in float32 is exact.
    student, teacher = ((logits * 512).round().float() / 512 for logits in (student, teacher))
    expected = differentiate(lambda s: loss(s, teacher, labels), student)
    shifted = differentiate(lambda s: loss(s, teacher - offset, labels), student + offset)
    torch.testing.assert_close(shifted, expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("loss", [dkd, nkd])
@pytest.mark.parametrize("gap", [20.0, 3000.0])
def test_a_teacher_sure_of_the_label_keeps_the_digits_of_the_other_classes(loss: Loss, gap: float) -> None:
    student, teacher, labels = make_logits(dtype=torch.float32)
    sure = teacher + gap * torch.nn.functional.one_hot(labels, 5)
    others, _ = differentiate(lambda s: loss(s.double(), sure.double(), labels), student)
    torch.testing.assert_close(loss(student, sure, labels).double(), others, rtol=1e-6, atol=1e-6)


@of_logits
def test_float64_logits_keep_their_precision(name: str) -> None:
    student, teacher, labels = make_logits()
    loss, gradient = differentiate(lambda s: OF_LOGITS[name](s, teacher, labels), student)
    assert loss.dtype == gradient.dtype == torch.float64
    # A change that float32 could not represent changes the loss.
    assert not torch.equal(OF_LOGITS[name](student * (1 + 1e-12), teacher, labels), loss)


@pytest.mark.parametrize("name", READ_LABELS)
@pytest.mark.parametrize(("wrong", "message"), [(-1, "a label for every sample. Got 1 of 6"), (5, "within 0 … 4")])
def test_labels_that_are_no_class_are_refused(name: str, wrong: int, message: str) -> None:
    student, teacher, labels = make_logits()
    labels[3] = wrong
    with pytest.raises(ValueError, match=message):
        OF_LOGITS[name](student, teacher, labels)


class OnAnotherDevice(Tensor):
    """A tensor that claims to be on a GPU."""

    device = torch.device("cuda:0")  # type: ignore[assignment]


def test_labels_are_checked_on_every_device() -> None:
    labels = torch.tensor([0, -1, 2]).as_subclass(OnAnotherDevice)
    with pytest.raises(ValueError, match="a label for every sample"):
        require_every_label(labels, 3, 4)


@of_logits
def test_losses_work_on_a_device_whose_values_cannot_be_read(name: str) -> None:
    on_meta = [values.to("meta") for values in make_logits()]
    assert OF_LOGITS[name](*on_meta).shape == ()  # type: ignore[arg-type]


@of_logits
def test_an_empty_batch_of_logits_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match=r"number of samples in a batch must be at least 1\. Got 0"):
        OF_LOGITS[name](torch.zeros(0, 5), torch.zeros(0, 5), torch.zeros(0, dtype=torch.int64))


@pytest.mark.parametrize("name", [*OF_MAPS, *OF_ROWS])
def test_an_empty_batch_of_features_is_refused(name: str) -> None:
    loss, shape = (OF_MAPS[name], (0, 3, 4, 4)) if name in OF_MAPS else (OF_ROWS[name], (0, 6))
    with pytest.raises(ValueError, match=r"number of samples in a batch must be at least 1\. Got 0"):
        loss(torch.zeros(shape), torch.zeros(shape))


def test_an_empty_batch_of_embeddings_is_refused() -> None:
    empty, allowed = torch.zeros(0, 4), torch.ones(0, 3, dtype=torch.bool)
    with pytest.raises(ValueError, match="number of samples in a batch must be at least 1"):
        crd_loss(empty, empty, torch.zeros(3, 4), allowed, temperature=0.07)


@pytest.mark.parametrize("name", OF_MAPS)
@pytest.mark.parametrize("shape", [(3, 4, 4), (3, 4), (2, 3, 4, 4, 4)])
def test_maps_without_a_batch_dimension_are_refused(name: str, shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"\[B, [CK], H, W\]"):
        OF_MAPS[name](torch.zeros(shape), torch.zeros(shape))


def test_maps_of_a_single_sample_are_refused_with_the_remedy() -> None:
    with pytest.raises(ValueError, match=r"maps must be of shape .*Got \[3, 4, 4\] instead .*maps\.unsqueeze\(0\)"):
        hint_loss(torch.zeros(3, 4, 4), torch.zeros(3, 4, 4))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "backend"),
    # Inductor needs a C++ compiler and takes seconds per loss; four losses cover the operations.
    [*((name, "aot_eager") for name in OF_LOGITS), *((name, "inductor") for name in ("kd", "dkd", "dist", "ofa"))],
)
def test_losses_of_logits_compile_as_one_graph(name: str, backend: str) -> None:
    student, teacher, labels = make_logits(dtype=torch.float32)
    teacher = mask(teacher)
    torch.compiler.reset()
    compiled = torch.compile(OF_LOGITS[name], fullgraph=True, backend=backend)
    expected = differentiate(lambda s: OF_LOGITS[name](s, teacher, labels), student)
    torch.testing.assert_close(differentiate(lambda s: compiled(s, teacher, labels), student), expected)


@of_logits
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_head_that_starts_at_zero_gets_a_bounded_gradient(name: str, dtype: torch.dtype) -> None:
    _, teacher, labels = make_logits(dtype=dtype)
    for start in (torch.zeros_like(teacher), torch.full_like(teacher, 0.3)):
        for target in (teacher, torch.zeros_like(teacher)):
            _, gradient = differentiate(lambda s, target=target: OF_LOGITS[name](s, target, labels), start)
            assert float(gradient.abs().max()) < 20


@pytest.mark.parametrize("name", [*OF_MAPS, *OF_ROWS])
@pytest.mark.parametrize("value", [0.0, 0.7])
def test_equal_or_zero_features_get_a_bounded_gradient(name: str, value: float) -> None:
    loss, shape = (OF_MAPS[name], (4, 3, 5, 5)) if name in OF_MAPS else (OF_ROWS[name], (4, 6))
    teacher = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    student = torch.full(shape, value)
    _, gradient = differentiate(lambda s: loss(s, teacher), student)
    assert float(gradient.abs().max()) < 20
    one_dead = teacher.flip(-1).clone()
    one_dead[1] = value
    one_dead[2] = one_dead[1]
    _, gradient = differentiate(lambda s: loss(s, teacher), one_dead)
    assert float(gradient.abs().max()) < 20


def test_several_temperatures_are_refused() -> None:
    """By broadcasting, each T² would multiply the loss of the whole batch."""
    logits, temperatures = torch.randn(4, 5), torch.tensor([1.0, 2.0, 4.0, 8.0])
    for shaped in (temperatures, temperatures.unsqueeze(1), temperatures[:1]):
        with pytest.raises(ValueError, match=r"shape of the temperature must be \[\], of a scalar\. Got \["):
            kd_loss(logits, logits, temperature=shaped)


def test_no_setting_allows_a_temperature_at_which_float32_is_noise() -> None:
    assert TEMPERATURE.largest == 10_000
    torch.manual_seed(0)
    logits, teacher = torch.randn(64, 10), torch.randn(64, 10)
    gradients = []
    for student in (logits.requires_grad_(), logits.detach().double().requires_grad_()):
        loss = kd_loss(student, teacher.to(student.dtype), temperature=TEMPERATURE.largest)
        gradients.append(torch.autograd.grad(loss, student)[0].double())
    torch.testing.assert_close(*gradients, rtol=0.01, atol=0.01 * float(gradients[1].abs().max()))
