"""Student epochs with the tutorial's own loop (``obvious.py``)."""

import time

import torch

from obvious import LEARNING_RATE, loss_with, supervised_loss, train_one_epoch
from student_epoch import make_loader, make_networks, make_parser, print_report


def main() -> None:
    arguments = make_parser(__doc__).parse_args()
    batches = make_loader(arguments)
    teacher, student = make_networks()
    loss = supervised_loss if arguments.no_teacher else loss_with(teacher)
    optimizer = torch.optim.Adam(student.parameters(), lr=LEARNING_RATE)
    seconds = []
    for _ in range(arguments.epochs):
        started = time.perf_counter()
        train_one_epoch(student, batches, loss, optimizer)
        seconds.append(time.perf_counter() - started)
    samples = len(batches.dataset)  # type: ignore[arg-type]  # torch's Dataset leaves __len__ undeclared
    print_report(seconds, samples, torch.__version__)


if __name__ == "__main__":
    main()
