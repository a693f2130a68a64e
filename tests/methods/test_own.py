"""Methods of the user's own by FILE.py:NAME: three kinds of function, settings and keys."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import kd
from kd.methods import make, method_named, settings_of, try_method
from kd.methods.own import load_method, pin_methods
from kd.models.networks import MLP
from kd.storage.fingerprint import describe, digest
from kd.storage.snapshots import Snapshots
from tests.methods.own_methods import LOSS, Write, build
from tests.methods.test_feature import Cut, fit

OBJECTIVES = """
    import torch
    from torch import nn
    import kd

    def objective(model, batch, weight=3.0):
        output, terms = kd.supervised(model, batch)
        return output, {**terms, "far": weight * (output - batch[2]).square().mean()}

    def bare(model, batch):
        return kd.supervised(model, batch)

    def factory(student, teacher, batch, *, offset=-1):
        def run(model, batch):
            output, terms = kd.supervised(model, batch)
            with torch.no_grad():
                target = teacher(batch[0])
            return output, {**terms, "far": (output - target + offset).square().mean()}
        return run

    class Projected(nn.Module):
        def __init__(self, student, teacher, batch):
            super().__init__()
            self.teacher, self.projector = (teacher,), nn.Linear(5, 5)
            self.epochs = 0

        def set_epoch(self, epoch, epochs):
            self.epochs = epochs

        def forward(self, model, batch):
            output, terms = kd.supervised(model, batch)
            return output, {**terms, "far": (self.projector(output) - self.teacher[0](batch[0])).square().mean()}
"""


def terms_of(spec: str, **given: float | str) -> dict[str, Tensor]:
    student, teacher, batch = build()
    _, terms = make(spec, student, teacher, batch, given)(student, batch)
    return terms


def test_a_loss_is_added_to_the_labels_with_the_weights_of_kd(write: Write) -> None:
    spec = write(LOSS) + ":match"
    student, _, batch = build()
    assert settings_of(spec) == {"alpha": 0.5, "scale": 2.0}
    distance = (student(batch[0]) - batch[2]).square().mean().item()
    hard = kd.supervised(student, batch)[1]["hard"].item()
    for alpha, scale in ((0.5, 2.0), (0.25, 7.0), (1.0, 2.0), (0.0, 1.0)):
        terms = terms_of(spec, alpha=alpha, scale=scale)
        assert terms["hard"].item() == pytest.approx(alpha * hard)
        assert terms["soft"].item() == pytest.approx((1 - alpha) * scale * distance)


def test_kd_written_as_ones_own_loss_trains_the_same_student_bit_for_bit(write: Write) -> None:
    spec = write("""
        from kd.losses import kd_loss

        def own(student_logits, teacher_logits, labels, temperature=5.0):
            return kd_loss(student_logits, teacher_logits, temperature=temperature)
    """)
    weights = []
    for name in ("kd", spec + ":own"):
        student, teacher, batch = build()
        objective = make(name, student, teacher, batch)
        optimizer = torch.optim.Adam(student.parameters())
        loader = [batch, batch]
        kd.fit(student, objective, loader, None, optimizer=optimizer, scheduler=None, epochs=2, seed=0)  # type: ignore[arg-type]
        weights.append(kd.weights_bytes(student))
    assert weights[0] == weights[1]


def test_the_inputs_of_a_loss_are_passed_by_name_in_any_order_and_labels_may_be_omitted(write: Write) -> None:
    file = write(LOSS)
    student, _, batch = build()
    expected = nn.functional.cross_entropy(student(batch[0]), batch[1]).item()
    assert terms_of(file + ":on_labels", alpha=0.0)["soft"].item() == pytest.approx(expected)
    assert method_named(file + ":match").unlabelled
    assert not method_named(file + ":on_labels").unlabelled
    assert method_named(file + ":match").needs == ("labels", "logits")


def test_objectives_and_factories_are_told_from_losses_by_the_names_of_their_parameters(write: Write) -> None:
    file = write(OBJECTIVES)
    assert settings_of(file + ":objective") == {"weight": 3.0}
    three, six = (terms_of(file + ":objective", weight=weight)["far"] for weight in (3, 6))
    assert six.item() == pytest.approx(2 * three.item())
    assert settings_of(file + ":bare") == {}
    assert list(terms_of(file + ":bare")) == ["hard"]
    assert method_named(file + ":factory").needs == ("labels", "teacher")
    assert settings_of(file + ":factory", {"offset": "-3"}) == {"offset": -3}  # may be negative, unlike in the table
    assert set(terms_of(file + ":factory")) == {"hard", "far"}


def test_the_parameters_of_an_objective_are_trained_and_it_gets_the_epochs(write: Write) -> None:
    student, teacher, batch = build()
    objective = make(write(OBJECTIVES) + ":Projected", student, teacher, batch)
    assert isinstance(objective, nn.Module)
    assert len(list(objective.parameters())) == 2
    objective.set_epoch(1, 7)  # type: ignore[operator]
    assert objective.objective.epochs == 7  # type: ignore[union-attr]


PROJECTED = """
    import torch
    from torch import nn
    import kd

    class Projected(nn.Module):
        def __init__(self, student, teacher, batch, *, weight=1.0):
            super().__init__()
            self.teacher, self.weight = (teacher,), weight
            self.projector = nn.Sequential(nn.Linear(4, 4), nn.Dropout(0.5))

        def forward(self, model, batch):
            output, terms = kd.supervised(model, batch)
            with torch.no_grad():
                target = self.teacher[0](batch[0])
            return output, {**terms, "far": self.weight * (self.projector(output) - target).square().mean()}
"""


def test_an_interrupted_training_with_ones_own_parameters_resumes_bit_for_bit(write: Write, tmp_path: Path) -> None:
    spec = write(PROJECTED) + ":Projected"
    whole = fit(spec)
    with pytest.raises(Cut):
        fit(spec, cut_after=7, snapshots=Snapshots(tmp_path / "s", key="k", interval=0))
    resumed = fit(spec, snapshots=Snapshots(tmp_path / "s", key="k", interval=0))
    assert whole.keys() == resumed.keys()
    assert any("projector" in key for key in whole)
    assert all(torch.equal(tensor, resumed[key]) for key, tensor in whole.items())


def test_the_parameters_of_an_objective_do_not_depend_on_the_random_state(write: Write) -> None:
    spec, keys = write(PROJECTED.replace("4, 4", "5, 5")) + ":Projected", set()
    for seed in (0, 1):
        models = build()
        with kd.seeded(seed):
            keys.add(digest(describe(make(spec, *models))))
    assert len(keys) == 1


@pytest.mark.parametrize("role", ["student", "teacher"])
def test_an_objective_with_a_model_as_a_submodule_is_refused_with_the_remedy(role: str, write: Write) -> None:
    code = f"""
        from torch import nn

        class Owner(nn.Module):
            def __init__(self, student, teacher, batch):
                super().__init__()
                self.kept = {role}
    """
    with pytest.raises(ValueError, match=rf"has the {role} as a submodule.*self\.{role} = \({role},\)"):
        make(write(code) + ":Owner", *build())


def test_the_teacher_of_a_factory_is_in_eval_mode(write: Write) -> None:
    student, teacher, batch = build()
    make(write(OBJECTIVES) + ":factory", student, teacher, batch)
    assert student.training
    assert not teacher.training


def test_needs_can_be_stated(write: Write) -> None:
    code = OBJECTIVES + '\n    bare.needs = ("logits", "ids")\n    objective.needs = ("logits", "teacher")\n'
    file = write(code)
    assert method_named(file + ":bare").needs == ("logits", "ids")
    assert method_named(file + ":bare").unlabelled
    with pytest.raises(ValueError, match=r"the attribute needs of .*:objective must be a tuple of labels, logits, "):
        method_named(file + ":objective")


def test_a_loss_can_be_evaluated_in_inference_mode(write: Write) -> None:
    student, teacher, batch = build()
    objective = make(write(LOSS) + ":match", student, teacher, batch)
    with torch.inference_mode():
        _, terms = objective(student, tuple(tensor.clone() for tensor in batch))
    assert terms["soft"].item() == pytest.approx(terms_of(write(LOSS) + ":match")["soft"].item())


def test_a_wrong_setting_is_answered_with_the_settings(write: Write) -> None:
    file = write(LOSS)
    with pytest.raises(ValueError, match=r"has no setting 'scael'\. Did you mean scale\? It has alpha, scale"):
        settings_of(file + ":match", {"scael": 1})
    with pytest.raises(ValueError, match="alpha must be in"):
        try_method(file + ":match", *build(), {"alpha": 1.5})
    with pytest.raises(ValueError, match="scale must be a finite number"):
        settings_of(file + ":match", {"scale": "inf"})


def test_any_edit_of_the_file_or_of_one_that_it_imports_changes_the_key(write: Write, tmp_path: Path) -> None:
    def key(code: str, helper: str = "FACTOR = 1") -> str:
        (tmp_path / "helper.py").write_text(helper)
        student, teacher, batch = build()
        return digest(describe(make(write(code) + ":match", student, teacher, batch)))

    known = key(LOSS)
    assert key(LOSS) == known
    assert key(LOSS.replace("values.square()", "values.abs()")) != known  # a function that match only calls
    importing = LOSS + "\n    from helper import FACTOR\n"
    assert key(importing) != key(importing, "FACTOR = 2")
    student, teacher, batch = build()
    spec = write(LOSS) + ":match"
    keys = {digest(describe(make(spec, student, teacher, batch, {"scale": scale}))) for scale in (2.0, 3.0)}
    assert len(keys) == 2


def test_the_folder_of_the_file_is_no_part_of_the_key(write: Write, tmp_path: Path) -> None:
    spec, moved = write(LOSS) + ":match", tmp_path / "elsewhere" / "mine.py"
    moved.parent.mkdir()
    moved.write_text(Path(spec.rpartition(":")[0]).read_text())
    keys = {digest(describe(make(file, *build()))) for file in (spec, f"{moved}:match")}
    assert len(keys) == 1


def test_the_file_runs_once_until_it_changes(write: Write, capsys: pytest.CaptureFixture[str]) -> None:
    spec = write(LOSS) + ":match"
    for _ in range(3):
        settings_of(spec)
    assert capsys.readouterr().out.count("running its code") == 1
    write(LOSS.replace("2.0", "4.0"))
    assert settings_of(spec)["scale"] == 4.0


def test_an_edit_during_a_command_does_not_change_its_method(write: Write) -> None:
    spec = write(LOSS) + ":match"
    with pin_methods():
        before = load_method(spec)
        write(LOSS.replace("2.0", "4.0"))
        assert load_method(spec) is before
        assert settings_of(spec)["scale"] == 2.0
    assert load_method(spec).source != before.source
    assert settings_of(spec)["scale"] == 4.0


def test_a_loss_without_weight_equals_the_control_bit_for_bit(write: Write) -> None:
    file, results = write(LOSS), []
    with kd.seeded(0):
        inputs, labels, logits = torch.randn(8, 4), torch.arange(8) % 5, torch.randn(8, 5)
    for name in ("control", "own"):
        with kd.seeded(1):
            student = MLP(6, input_shape=(4,), classes=5)
        batch = (inputs, labels, logits)
        objective = kd.supervised if name == "control" else make(f"{file}:match", student, student, batch, {"alpha": 1})
        _, terms = objective(student, batch)
        torch.stack([*terms.values()]).sum().backward()  # type: ignore[no-untyped-call]
        results.append([parameter.grad for parameter in student.parameters()])
    assert all(torch.equal(first, second) for first, second in zip(*results, strict=True))  # type: ignore[arg-type]
