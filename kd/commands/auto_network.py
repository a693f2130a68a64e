"""``--teacher auto``: a network that fits the inputs of the data."""

from __future__ import annotations

from kd.commands.data import Task
from kd.console import say
from kd.models.networks import SMALLEST_SIDE

_said: list[str] = []  # by this command, which builds its models several times


def choose_network(task: Task) -> str:
    """Return the name of a network to train as the teacher: for images by their size, an MLP for other inputs.

    Raises:
        ValueError: the inputs are tokens, which need an embedding.
    """
    if task.example is not None and not task.example.is_floating_point():
        raise ValueError(
            "--teacher auto has no network for tokens, integers of shape "
            f"{list(task.input_shape)}. Name a model with an embedding, FILE.py:NAME, for --teacher and --student, or "
            "store quantities as float32."
        )
    if len(task.input_shape) != 3:
        return "mlp:512,512"
    return "convnet" if min(task.input_shape[1:]) >= SMALLEST_SIDE else "cnn:32"


def say_chosen_network(task: Task) -> None:
    """Print the chosen network and the reason, once in a command."""
    name, shape = choose_network(task), task.input_shape
    inputs = f"images of {shape[1]} × {shape[2]} pixels" if len(shape) == 3 else f"inputs of shape {list(shape)}"
    if name not in _said:
        _said.append(name)
        say(f"teacher: {name}, which suits {inputs} (--teacher chooses another)")


def list_chosen_networks() -> list[str]:
    """Return the networks that this command has chosen, for the recorded settings."""
    return list(_said)


def forget_chosen_networks() -> None:
    """Forget the choices of an earlier command in the same process."""
    _said.clear()
