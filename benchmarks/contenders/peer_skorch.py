"""Student epochs with skorch: a NeuralNet whose ``get_loss``, skorch's hook for custom losses, runs the teacher.

skorch times each epoch itself; printing and the validation split are off.
"""

from importlib.metadata import version
from typing import Any

import torch
from skorch import NeuralNet
from torch import Tensor, nn

from obvious import BATCH_SIZE, LEARNING_RATE, distillation_loss
from student_epoch import load_images, make_networks, make_parser, print_report


class DistillationNet(NeuralNet):
    def __init__(self, *arguments: Any, teacher: nn.Module, **settings: Any) -> None:
        self.teacher = teacher
        super().__init__(*arguments, **settings)

    def get_loss(self, y_pred: Tensor, y_true: Tensor, X: Tensor, *_: Any, **__: Any) -> Tensor:
        with torch.no_grad():
            teacher_logits = self.teacher(X)
        return distillation_loss(y_pred, teacher_logits, y_true)


def main() -> None:
    arguments = make_parser(__doc__).parse_args()
    training = load_images(arguments)
    teacher, student = make_networks()
    settings: dict[str, Any] = {
        "criterion": nn.CrossEntropyLoss,
        "optimizer": torch.optim.Adam,
        "lr": LEARNING_RATE,
        "batch_size": BATCH_SIZE,
        "max_epochs": arguments.epochs,
        "iterator_train__shuffle": True,
        "train_split": None,
        "verbose": 0,
    }
    plain = arguments.no_teacher
    net = NeuralNet(student, **settings) if plain else DistillationNet(student, teacher=teacher, **settings)
    net.fit(training, y=None)
    samples = len(training)  # type: ignore[arg-type]  # torch's Dataset leaves __len__ undeclared
    print_report(net.history[:, "dur"], samples, version("skorch"), loss=net.history[-1, "train_loss"])


if __name__ == "__main__":
    main()
