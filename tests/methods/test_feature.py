"""Feature methods: the teacher does not change, the student is trained, and fingerprints cover all settings."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import cloudpickle
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import Subset

import kd
from kd.methods import METHODS, make, settings_of
from kd.models.networks import CNN, MLP, ConvNet
from kd.storage.fingerprint import describe, digest
from kd.storage.snapshots import Snapshots
from kd.training.optimizers import adam
from kd.training.step import Step

SHAPE = (1, 24, 24)
FEATURE = [name for name, method in METHODS.items() if "teacher" in method.needs]
MAPS = ["fitnet", "at", "nst", "fsp", "ab", "ft", "vid", "reviewkd", "mgd", "semckd", "sdd", "cat-kd"]
PROJECTED = [
    "fitnet",
    "ab",
    "ft",
    "vid",
    "reviewkd",
    "crd",
    "mgd",
    "semckd",
]  # their trained modules are not the identity at the start
all_methods = pytest.mark.parametrize("name", FEATURE)


class Cut(Exception):
    pass


def make_images(count: int = 48) -> kd.ImageDataset:
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(count) % 4
    pixels = torch.randint(0, 100, (count, *SHAPE), generator=generator)
    pixels += 30 * labels.view(-1, 1, 1, 1)
    return kd.ImageDataset(pixels.to(torch.uint8), labels, mean=0.4, std=0.25)


def make_distill_data() -> kd.DistillDataset:
    """Return a dataset of images with logits and ids; methods that do not need them ignore them."""
    return kd.DistillDataset(make_images(), torch.randn(48, 4, generator=torch.Generator().manual_seed(0)), ids=True)


WIDE = (32, 64, 128)  # channels of the pipeline's former teacher, in whose terms some tests give sizes


def build_models(
    name: str = "", *, maps: bool = True, channels: tuple[int, int, int] = (12, 20, 24)
) -> tuple[nn.Module, nn.Module]:
    """Return an untrained student and teacher: equal channels for fsp, means of maps for sdd and cat-kd."""
    with kd.seeded(1):
        student = CNN(4, SHAPE, 4) if maps else MLP(8, input_shape=SHAPE, classes=4)
        return student, CNN(4, SHAPE, 4) if name in {"fsp", "sdd", "cat-kd"} else ConvNet(SHAPE, 4, channels)


def build_objective(name: str, student: nn.Module, teacher: nn.Module, **settings: Any) -> kd.Objective:
    return make(name, student, teacher, get_first_batch(), settings)


def get_first_batch() -> kd.Batch:
    return next(iter(kd.make_loader(make_distill_data(), batch_size=8)))


def fit(
    name: str, *, epochs: int = 2, cut_after: int = 0, snapshots: Snapshots | None = None, **settings: Any
) -> dict[str, Tensor]:
    student, teacher = build_models(name)
    objective = build_objective(name, student, teacher, **settings)
    loader = kd.make_loader(make_distill_data(), batch_size=8, shuffle=True)
    optimizer, scheduler = adam(student, learning_rate=0.01, steps=epochs * len(loader), objective=objective)
    steps = iter(range(1, 1000))

    def cut() -> None:
        if next(steps) == cut_after:
            raise Cut

    kd.fit(
        student,
        objective,
        loader,
        None,
        optimizer=optimizer,
        scheduler=scheduler,
        epochs=epochs,
        seed=0,
        on_batch=cut,
        snapshots=snapshots,
    )
    objective_state = objective.state_dict(prefix="objective.") if isinstance(objective, nn.Module) else {}
    return {**student.state_dict(), **objective_state}


@all_methods
def test_an_epoch_runs_the_teacher_in_eval_mode_and_does_not_change_it(name: str) -> None:
    student, teacher = build_models(name)
    modes: list[tuple[bool, bool]] = []
    teacher.register_forward_hook(lambda *_: modes.append((teacher.training, student.training)))
    before = kd.weights_bytes(teacher)
    objective = build_objective(name, student, teacher)
    modes.clear()
    loader = kd.make_loader(make_distill_data(), batch_size=8, shuffle=True)
    optimizer, _ = adam(student, learning_rate=0.01, steps=6, objective=objective)
    kd.fit(student, objective, loader, None, optimizer=optimizer, epochs=1, seed=0)
    assert modes == [(False, True)] * 6
    assert kd.weights_bytes(teacher) == before
    assert all(parameter.grad is None for parameter in teacher.parameters())


@pytest.mark.parametrize(
    ("name", "precision"),
    [
        # SemCKD's products of float16 matrices take half a minute on some processors.
        pytest.param(name, precision, marks=[pytest.mark.slow] if (name, precision) == ("semckd", "float16") else [])
        for name in FEATURE
        for precision in ("bfloat16", "float16")
    ],
)
def test_the_teacher_runs_in_full_precision_if_the_student_trains_in_a_lower_one(name: str, precision: str) -> None:
    student, teacher = build_models(name)
    objective = build_objective(name, student, teacher)
    dtypes: dict[str, set[torch.dtype]] = {"student": set(), "teacher": set()}
    for role, model in (("student", student), ("teacher", teacher)):
        for module in model.modules():
            module.register_forward_hook(lambda *_, role=role: dtypes[role].add(_[2].dtype))
    step = Step(student, adam(student, learning_rate=0.01, steps=2, objective=objective)[0], precision=precision)
    loader = kd.make_loader(Subset(make_distill_data(), range(16)), batch_size=8, shuffle=True)
    history = kd.fit(student, objective, loader, None, step=step, epochs=1, seed=0)
    assert dtypes["teacher"] == {torch.float32}
    assert getattr(torch, precision) in dtypes["student"]
    assert torch.tensor(history["train_loss"]).isfinite().all()


@pytest.mark.parametrize(("name", "loss"), [("sdd", kd.losses.sdd_loss), ("cat-kd", kd.losses.cat_loss)])
def test_the_teachers_classifier_is_applied_to_regions_in_full_precision(
    name: str, loss: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    student, teacher = build_models(name)
    objective, seen = build_objective(name, student, teacher), list[torch.dtype]()

    def record(student_logits: Tensor, teacher_logits: Tensor, *others: Any, **settings: Any) -> Any:
        seen.append(teacher_logits.dtype)
        return loss(student_logits, teacher_logits, *others, **settings)

    monkeypatch.setattr(f"kd.methods.{name.replace('-', '_')}.{loss.__name__}", record)
    with torch.autocast("cpu", torch.bfloat16):
        objective(student, get_first_batch())
    assert seen == [torch.float32]


@all_methods
def test_the_feature_term_has_a_gradient_and_the_teacher_is_no_submodule(name: str) -> None:
    student, teacher = build_models(name)
    objective = build_objective(name, student, teacher)
    _, terms = objective(student, get_first_batch())
    assert list(terms) == ["hard", "feature", *(["paraphraser"] if name == "ft" else [])]
    terms["feature"].backward()  # type: ignore[no-untyped-call]
    trained = [p for p in student.parameters() if p.grad is not None and bool(p.grad.abs().sum() > 0)]
    assert trained
    assert isinstance(objective, nn.Module)
    teacher_ids = {id(p) for p in teacher.parameters()}
    assert not teacher_ids & {id(p) for p in objective.parameters()}
    assert all(parameter.grad is None for parameter in teacher.parameters())


@all_methods
def test_the_feature_term_is_zero_if_student_and_teacher_are_equal(name: str) -> None:
    _, teacher = build_models(name)
    student = copy.deepcopy(teacher).eval()
    _, terms = build_objective(name, student, teacher)(student, get_first_batch())
    if name in PROJECTED:
        assert terms["feature"].item() > 0
    else:
        assert terms["feature"].item() == pytest.approx(0, abs=1e-4)


@all_methods
def test_settings_and_teacher_are_part_of_the_fingerprint(name: str) -> None:
    student, teacher = build_models(name)
    original = digest(describe(build_objective(name, student, teacher)))
    assert original == digest(describe(build_objective(name, *build_models(name))))
    assert original == digest(describe(cloudpickle.loads(cloudpickle.dumps(build_objective(name, student, teacher)))))
    for setting, value in settings_of(name).items():
        if isinstance(value, float):
            assert digest(describe(build_objective(name, student, teacher, **{setting: value / 2}))) != original
    with torch.no_grad():
        next(teacher.parameters()).add_(1)
    assert digest(describe(build_objective(name, student, teacher))) != original


@pytest.mark.parametrize("name", sorted(n for n in FEATURE if "weight" in settings_of(n)))
def test_with_weight_0_the_student_equals_the_control_bit_for_bit(name: str) -> None:
    student, _ = build_models(name)
    loader = kd.make_loader(make_distill_data(), batch_size=8, shuffle=True)
    optimizer, scheduler = adam(student, learning_rate=0.01, steps=2 * len(loader))
    kd.fit(student, kd.supervised, loader, None, optimizer=optimizer, scheduler=scheduler, epochs=2, seed=0)
    alone = {"alone": 0.0} if "alone" in settings_of(name) else {}
    weightless = fit(name, weight=0.0, **alone)
    assert all(torch.equal(tensor, weightless[key]) for key, tensor in student.state_dict().items())


STATELESS = {"nst", "sp", "pkt", "cc", "sdd", "cat-kd"}  # like at and rkd


@pytest.mark.parametrize(
    "name",
    [pytest.param(n, marks=[pytest.mark.slow] if n in STATELESS else []) for n in (*FEATURE, "ofa")],
)
def test_an_interrupted_training_resumes_bit_for_bit(name: str, tmp_path: Path) -> None:
    whole = fit(name)
    with pytest.raises(Cut):
        fit(name, cut_after=7, snapshots=Snapshots(tmp_path, key="k", interval=0))
    resumed = fit(name, snapshots=Snapshots(tmp_path, key="k", interval=0))
    assert whole.keys() == resumed.keys()
    assert all(torch.equal(tensor, resumed[key]) for key, tensor in whole.items())


@all_methods
def test_named_layers_are_compared(name: str) -> None:
    student, teacher = build_models(name)
    special = {"fsp": ("layer1,layer2", "layer1,layer2"), "sdd": ("layer3", "layer3"), "cat-kd": ("layer3", "layer3")}
    student_layers, teacher_layers = special.get(name, ("layer2", "norm2"))
    objective: Any = build_objective(
        name, student, teacher, student_layers=student_layers, teacher_layers=teacher_layers
    )
    compared = getattr(objective, "objective", objective)  # without the warm-up or the phases
    assert (compared.student_layers, compared.teacher_layers) == (student_layers.split(","), teacher_layers.split(","))
    _, terms = objective(student, get_first_batch())
    assert terms["feature"].item() > 0
    with pytest.raises(ValueError, match="has no layer 'layer9'"):
        build_objective(name, student, teacher, student_layers="layer9", teacher_layers="norm3")(
            student, get_first_batch()
        )


@pytest.mark.parametrize("name", MAPS)
def test_a_student_without_maps_is_refused_with_a_remedy(name: str) -> None:
    with pytest.raises(ValueError, match=r"none were found in the student, MLP\. .*--student cnn"):
        build_objective(name, *build_models(maps=False))


@pytest.mark.parametrize("name", sorted(set(FEATURE) - set(MAPS)))
def test_relations_between_samples_need_no_maps(name: str) -> None:
    student, teacher = build_models(maps=False)
    _, terms = build_objective(name, student, teacher)(student, get_first_batch())
    assert terms["feature"].item() > 0
