"""Student epochs with torchdistill: distillation box, KDLoss and box-driven loop, as in its examples.

As in the examples, the loop reads ``loss.item()`` at each step; the examples' meters and log lines are omitted.
"""

import time
from importlib.metadata import version
from typing import Any

import torch
from torch.utils.data import RandomSampler
from torchdistill.core.distillation import get_distillation_box
from torchdistill.core.training import get_training_box

from obvious import ALPHA, BATCH_SIZE, LEARNING_RATE, TEMPERATURE
from student_epoch import load_images, make_networks, make_parser, print_report

OUTPUT = {"module_path": ".", "io": "output"}  # "." is the model itself
KD_LOSS = {
    "criterion": {
        "key": "KDLoss",
        "kwargs": {
            "student_module_path": ".",
            "student_module_io": "output",
            "teacher_module_path": ".",
            "teacher_module_io": "output",
            "temperature": TEMPERATURE,
            "alpha": ALPHA,  # weights the labels, as in kd; the soft term gets (1 − alpha) · T²
            "reduction": "batchmean",
        },
    },
    "weight": 1.0,
}
CROSS_ENTROPY = {
    "criterion": {"key": "CrossEntropyLoss", "kwargs": {"reduction": "mean"}},
    "criterion_wrapper": {
        "key": "SimpleLossWrapper",
        "kwargs": {"input": {"is_from_teacher": False, **OUTPUT}, "target": {"uses_label": True}},
    },
    "weight": 1.0,
}


def make_configuration(epochs: int, *, plain: bool) -> dict[str, Any]:
    """Return the section ``train`` of torchdistill's YAML configuration."""
    model = {"forward_proc": "forward_batch_only", "forward_hook": {"input": [], "output": []}}
    return {
        "num_epochs": epochs,
        "train_data_loader": {
            "dataset_id": "train",
            "sampler": {"class_or_func": RandomSampler},
            "kwargs": {"batch_size": BATCH_SIZE},
        },
        **({"model": model} if plain else {"teacher": {**model, "requires_grad": False}, "student": model}),
        "optimizer": {"key": "Adam", "kwargs": {"lr": LEARNING_RATE}},
        "criterion": {
            "key": "WeightedSumLoss",
            "kwargs": {"sub_terms": {"ce": CROSS_ENTROPY} if plain else {"kd": KD_LOSS}},
        },
    }


def train_one_epoch(box: Any, epoch: int) -> float:
    """Train one epoch and return the mean loss."""
    box.pre_epoch_process(epoch=epoch)
    losses = []
    for inputs, targets, supplement in box.train_data_loader:
        loss = box.forward_process(inputs, targets, supplement)
        box.post_forward_process(loss=loss)
        losses.append(loss.item())
    box.post_epoch_process()
    return float(sum(losses) / len(losses))


def main() -> None:
    arguments = make_parser(__doc__).parse_args()
    data = {"train": load_images(arguments)}
    teacher, student = make_networks()
    settings = (data, make_configuration(arguments.epochs, plain=arguments.no_teacher), torch.device("cpu"))
    single = {"device_ids": None, "distributed": False, "lr_factor": 1}
    if arguments.no_teacher:
        box = get_training_box(student, *settings, **single)
    else:
        box = get_distillation_box(teacher, student, *settings, **single)
    seconds = []
    for epoch in range(arguments.epochs):
        started = time.perf_counter()
        loss = train_one_epoch(box, epoch)
        seconds.append(time.perf_counter() - started)
    print_report(seconds, len(box.train_data_loader.dataset), version("torchdistill"), loss=loss)


if __name__ == "__main__":
    main()
