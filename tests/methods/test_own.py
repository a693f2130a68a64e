"""Methods of the user's own by FILE.py:NAME: three kinds of function, clear errors, settings, keys and trials."""

from __future__ import annotations

import textwrap
from collections.abc import Callable
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
from tests.methods.test_feature import Cut, fit

Write = Callable[[str], str]

LOSS = """
    import torch
    import torch.nn.functional as F

    def square(values):
        return values.square()

    def match(student_logits, teacher_logits, *, scale=2.0):
        return scale * square(student_logits - teacher_logits).mean()

    def on_labels(teacher_logits, labels, student_logits):
        return F.nll_loss(F.log_softmax(student_logits, 1), labels) + 0 * teacher_logits.sum()
"""
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


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Write a file with this code and return its path."""

    def write_file(code: str) -> str:
        path = tmp_path / "mine.py"
        path.write_text(textwrap.dedent(code))
        return str(path)

    return write_file


def build() -> tuple[nn.Module, nn.Module, kd.Batch]:
    """Return a student, a teacher and a batch with logits."""
    with kd.seeded(0):
        student, teacher = nn.Linear(4, 5), nn.Linear(4, 5)
        inputs = torch.randn(6, 4)
        return student, teacher, (inputs, torch.arange(6) % 5, teacher(inputs).detach())


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


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("def own(student, teacher, labels): ...", r"Got \(student, teacher, labels\) instead\. Rename its parameters"),
        ("def own(student_logits): ...", r"one of def NAME\(student_logits, teacher_logits, labels\) -> loss, def"),
        ("def own(*logits): ...", r"Got \(\*logits\)"),
        ("def own(model, batch, **settings): ...", r"Got \(model, batch, \*\*settings\)"),
        ("def own(): ...", r"Got \(no parameters\)"),
        ("own = 5", "must be a function. Got a int instead"),
        ("def own(model, batch, flag=True): ...", "the default of flag in .* must be a finite number or a text. Got T"),
        ("def own(model, batch, layers=()): ...", "the default of layers in"),
        ("def own(model, batch, w=float('inf')): ...", "the default of w in"),
        ("def own(student_logits, teacher_logits, alpha=2): ...", "the parameter alpha of .* must be named otherwise"),
        ("other = 1", "defines no 'own'"),
        ("1 / 0", "failed while its code ran"),
    ],
)
def test_another_function_is_refused_with_the_allowed_ones(code: str, message: str, write: Write) -> None:
    with pytest.raises(ValueError, match=message):
        method_named(write(code) + ":own")


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("return (student_logits - teacher_logits).square()", r"dimensions.* Got a tensor of shape \[2, 5\]"),
        ("return 0.5", "Got a float instead"),
        ("return student_logits.detach().mean()", "has no gradient"),
        ("return student_logits.argmax(1).float().mean()", "has no gradient"),
        ("return student_logits @ teacher_logits", r"own fails on a batch \(RuntimeError: "),
        ("student_logits /= 2\n    return student_logits.mean()", r"changes its logits in place.*x = x / t for x /= t"),
        ("teacher_logits.clamp_(min=0)\n    return student_logits.mean()", "changes its logits in place"),
        ("return missing", r"fails on a batch \(NameError: name 'missing'"),
        ("raise KeyError('layer')", r"fails on a batch \(KeyError: 'layer'\)\. Correct it"),
    ],
)
def test_a_loss_that_cannot_be_trained_is_refused_by_the_trial(body: str, message: str, write: Write) -> None:
    spec = write(f"def own(student_logits, teacher_logits, labels):\n    {body}\n") + ":own"
    student, teacher, batch = build()
    with pytest.raises(ValueError, match=message):
        try_method(spec, student, teacher, (batch[0][:2], batch[1][:2]))


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("return model(batch[0])", r"must return \(output, terms\).*Got a tensor of shape \[6, 5\]"),
        ("return model(batch[0]), {}", "Got a tuple"),
        ("return model(batch[0]), {'a': model(batch[0]).detach().mean()}", "have no gradient for the student"),
        ("return model(batch[0]), {'a': batch[0].clone().requires_grad_().mean()}", "have no gradient for the student"),
        ("return model(batch[0]), {'a': 1.0}", "the term 'a' of .* Got a float"),
        ("return model(batch[0]), {'a': model(batch[0])}", r"Got a tensor of shape \[6, 5\]"),
    ],
)
def test_an_objective_that_returns_something_else_is_refused(body: str, message: str, write: Write) -> None:
    student, teacher, batch = build()
    with pytest.raises(ValueError, match=message):
        try_method(write(f"def own(model, batch):\n    {body}\n") + ":own", student, teacher, batch)


def test_the_trial_leaves_the_models_as_they_were(write: Write) -> None:
    student, teacher, batch = build()
    before = [kd.weights_bytes(model) for model in (student, teacher)]
    try_method(write(LOSS) + ":match", student, teacher, batch)
    assert [kd.weights_bytes(model) for model in (student, teacher)] == before
    assert all(parameter.grad is None for model in (student, teacher) for parameter in model.parameters())


def test_a_loss_can_be_evaluated_in_inference_mode(write: Write) -> None:
    student, teacher, batch = build()
    objective = make(write(LOSS) + ":match", student, teacher, batch)
    with torch.inference_mode():
        _, terms = objective(student, tuple(tensor.clone() for tensor in batch))
    assert terms["soft"].item() == pytest.approx(terms_of(write(LOSS) + ":match")["soft"].item())


def test_a_factory_that_returns_no_objective_is_refused(write: Write) -> None:
    spec = write("def own(student, teacher, batch):\n    return 3\n") + ":own"
    with pytest.raises(ValueError, match=r"the result of .*:own must be an objective.* Got 3"):
        try_method(spec, *build())


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


FORMS = """
    import torch
    import torch.nn.functional as F
    from torch import nn
    import kd

    def of_student(student, teacher, batch):
        def run(model, batch):
            output, terms = kd.supervised(model, batch)
            return output, {**terms, "far": F.mse_loss(student(batch[0]), teacher(batch[0]).detach())}
        return run

    class Far(nn.Module):
        def __init__(self, student, teacher, batch):
            super().__init__()
            self.models, self.projector = (student, teacher), self.make()

        def make(self):
            return nn.Linear(5, 5)

        def forward(self, model, batch):
            output, terms = kd.supervised(model, batch)
            return output, {**terms, "far": F.mse_loss(self.projector(output), self.models[1](batch[0]).detach())}

    class Listed(Far):
        def make(self):
            linear = nn.Linear(5, 5)
            return lambda output: linear(output)

    class Late(Far):
        def make(self):
            return None

        def forward(self, model, batch):
            self.projector = self.projector or nn.Linear(5, 5)
            return super().forward(model, batch)

    class Plain:
        def __init__(self, student, teacher, batch):
            self.scale = torch.ones((), requires_grad=True)

        def __call__(self, model, batch):
            output, terms = kd.supervised(model, batch)
            return output, {**terms, "far": self.scale}

    PROJECTOR = nn.Linear(5, 5)

    def loss(student_logits, teacher_logits):
        return F.mse_loss(PROJECTOR(student_logits), teacher_logits)

    def jacobian(model, batch):
        inputs = batch[0].clone().requires_grad_()
        with torch.enable_grad():
            output = model(inputs)
            (slope,) = torch.autograd.grad(output.logsumexp(1).sum(), inputs, create_graph=True)
        return output, {"slope": slope.square().mean()}

    def jacobian_without_validation(model, batch):
        inputs = batch[0].clone().requires_grad_()
        (slope,) = torch.autograd.grad(model(inputs).logsumexp(1).sum(), inputs, create_graph=True)
        return model(inputs), {"slope": slope.square().mean()}

    class LazyFar(Far):
        def make(self):
            return nn.LazyLinear(5)
"""
STATES = """
    import numpy as np
    import torch
    from torch import nn
    import kd

    class Counter:
        def __init__(self, student, teacher, batch):
            self.steps = 0

        def step(self, output):
            self.steps += 1
            return self.steps

        def __call__(self, model, batch):
            output, terms = kd.supervised(model, batch)
            return output, {**terms, "far": output.square().mean() * self.step(output)}

    class Generator(Counter):
        def __init__(self, student, teacher, batch):
            self.generator = np.random.default_rng(0)

        def step(self, output):
            return float(self.generator.random())

    class First(Counter):
        def step(self, output):
            self.steps = self.steps or output.mean().item()
            return self.steps

    class Plain(nn.Module):
        def __init__(self, student, teacher, batch):
            super().__init__()
            self.steps = 0

        def forward(self, model, batch):
            self.steps += 1
            output, terms = kd.supervised(model, batch)
            return output, {**terms, "far": output.square().mean() / self.steps}

    class Buffer(Plain):
        def __init__(self, student, teacher, batch):
            nn.Module.__init__(self)
            self.register_buffer("steps", torch.zeros(()))

    class Dropout(Plain):
        def __init__(self, student, teacher, batch):
            nn.Module.__init__(self)
            self.steps = nn.Sequential(nn.Linear(5, 5), nn.BatchNorm1d(5), nn.Dropout(0.5))

        def forward(self, model, batch):
            output, terms = kd.supervised(model, batch)
            return output, {**terms, "far": self.steps(output).square().mean()}

    class Cache(Counter):
        def step(self, output):
            self.output = output
            return torch.rand(())

    def calls(model, batch):
        calls.number += 1
        output, terms = kd.supervised(model, batch)
        return output, {"hard": terms["hard"] / calls.number}

    calls.number = 0
"""


def test_an_objective_of_the_student_that_it_was_built_with_is_refused(write: Write) -> None:
    with pytest.raises(ValueError, match=r"depend on weight of its argument student.* use model, not student"):
        try_method(write(FORMS) + ":of_student", *build())


@pytest.mark.parametrize("name", ["Listed", "Late", "Plain", "loss"])
def test_a_projector_that_would_never_be_trained_is_refused(name: str, write: Write) -> None:
    with pytest.raises(ValueError, match=r"would never be trained\. Return an nn\.Module that holds it"):
        try_method(f"{write(FORMS)}:{name}", *build())


@pytest.mark.parametrize("name", ["Far", "jacobian"])
def test_trained_projectors_and_gradients_of_the_input_are_accepted(name: str, write: Write) -> None:
    assert try_method(f"{write(FORMS)}:{name}", *build()) == []


def test_an_objective_that_fails_in_a_validation_is_refused(write: Write) -> None:
    with pytest.raises(ValueError, match=r"fails without gradients, as in the validation .* torch\.enable_grad\(\)"):
        try_method(f"{write(FORMS)}:jacobian_without_validation", *build())


def test_a_lazy_projector_is_refused(write: Write) -> None:
    with pytest.raises(ValueError, match=r"weights a shape when it is built\. Got projector\.weight of a lazy module"):
        try_method(f"{write(FORMS)}:LazyFar", *build())


@pytest.mark.parametrize("name", ["Counter", "Generator", "First", "Plain", "calls"])
def test_an_objective_that_could_not_resume_is_refused(name: str, write: Write) -> None:
    with pytest.raises(ValueError, match=r"the term '(far|hard)' of .* depends on values that its state_dict lacks"):
        try_method(f"{write(STATES)}:{name}", *build())


@pytest.mark.parametrize("name", ["Buffer", "Dropout", "Cache"])
def test_buffers_and_random_numbers_of_torch_are_accepted(name: str, write: Write) -> None:
    assert try_method(f"{write(STATES)}:{name}", *build()) == []


def test_the_trial_starts_the_first_epoch(write: Write) -> None:
    code = """
        import kd

        class Ramp:
            def __init__(self, student, teacher, batch): ...

            def set_epoch(self, epoch, epochs):
                self.weight = 1 + epoch / (epochs - 1)

            def __call__(self, model, batch):
                output, terms = kd.supervised(model, batch)
                return output, {"hard": self.weight * terms["hard"]}
    """
    assert try_method(write(code) + ":Ramp", *build(), epochs=2) == []


def test_a_loss_that_states_its_needs_is_refused(write: Write) -> None:
    code = "def own(student_logits, teacher_logits): ...\nown.needs = ('logits', 'ids')\n"
    with pytest.raises(ValueError, match=r"the attribute needs of .*:own must be omitted"):
        method_named(write(code) + ":own")
