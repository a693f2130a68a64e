"""Student epochs with Lightning's Trainer, without logger, checkpoints, progress bar and model summary."""

import logging
import time
from importlib.metadata import version
from typing import Any

import torch
from lightning import Callback, LightningModule, Trainer
from torch import Tensor, nn

from obvious import LEARNING_RATE, Loss, loss_with, supervised_loss
from student_epoch import make_loader, make_networks, make_parser, print_report


class LitStudent(LightningModule):
    def __init__(self, student: nn.Module, loss: Loss) -> None:
        super().__init__()
        self.student, self.loss = student, loss

    def training_step(self, batch: list[Tensor], _: int) -> Tensor:
        loss, _logits = self.loss(self.student, *batch)
        self.log("train_loss", loss, on_step=False, on_epoch=True)
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.student.parameters(), lr=LEARNING_RATE)


class Clock(Callback):
    def __init__(self) -> None:
        self.started, self.seconds = 0.0, list[float]()

    def on_train_epoch_start(self, *_: Any) -> None:
        self.started = time.perf_counter()

    def on_train_epoch_end(self, *_: Any) -> None:
        self.seconds.append(time.perf_counter() - self.started)


def main() -> None:
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    arguments = make_parser(__doc__).parse_args()
    batches, clock = make_loader(arguments), Clock()
    teacher, student = make_networks()
    # The teacher stays outside the module, because Lightning would set its mode and save it.
    model = LitStudent(student, supervised_loss if arguments.no_teacher else loss_with(teacher))
    trainer = Trainer(
        accelerator="cpu",
        max_epochs=arguments.epochs,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[clock],
    )
    trainer.fit(model, batches)
    loss = float(trainer.callback_metrics["train_loss"])
    samples = len(batches.dataset)  # type: ignore[arg-type]  # torch's Dataset leaves __len__ undeclared
    print_report(clock.seconds, samples, version("lightning"), loss=loss)


if __name__ == "__main__":
    main()
