"""Methods of the user's own that are refused, or accepted, by their form or their trial before the training."""

from __future__ import annotations

import pytest

import kd
from kd.methods import method_named, try_method
from tests.methods.own_methods import LOSS, Write, build


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


def test_a_factory_that_returns_no_objective_is_refused(write: Write) -> None:
    spec = write("def own(student, teacher, batch):\n    return 3\n") + ":own"
    with pytest.raises(ValueError, match=r"the result of .*:own must be an objective.* Got 3"):
        try_method(spec, *build())


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
