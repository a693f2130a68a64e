"""Student epochs by the tutorial's own loop (``obvious.py``)."""

import time

import torch

from obvious import LEARNING_RATE, loss_with, supervised_loss, train_one_epoch
from student_epoch import loader, networks, parser, report


def main() -> None:
    arguments = parser(__doc__).parse_args()
    batches = loader(arguments)
    teacher, student = networks()
    loss = supervised_loss if arguments.no_teacher else loss_with(teacher)
    optimizer = torch.optim.Adam(student.parameters(), lr=LEARNING_RATE)
    seconds = []
    for _ in range(arguments.epochs):
        started = time.perf_counter()
        train_one_epoch(student, batches, loss, optimizer)
        seconds.append(time.perf_counter() - started)
    samples = len(batches.dataset)  # type: ignore[arg-type]  # torch's Dataset leaves __len__ undeclared
    report(seconds, samples, torch.__version__)


if __name__ == "__main__":
    main()
