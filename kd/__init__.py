"""Knowledge distillation for PyTorch: losses, methods, training, statistics, reports and the command ``kd``.

history = kd.fit(student, kd.distilled(temperature=5, alpha=0.5), train_loader, val_loader, ...)
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # for type checkers and editors; at run time a name is imported at its first use
    from kd.classifier import DistilledClassifier
    from kd.data.datasets import DistillDataset, ImageDataset
    from kd.data.loaders import batches_differ, loader_like, make_loader
    from kd.data.mnist import load_mnist
    from kd.evaluation.judging import judge
    from kd.losses import kd_loss
    from kd.methods.objectives import distilled, live_teacher, supervised
    from kd.models.features import capture
    from kd.models.inference import Predictions, predict
    from kd.regressor import DistilledRegressor
    from kd.seeding import seeded
    from kd.storage.files import publish
    from kd.storage.weights import load_weights, weights_bytes
    from kd.teachers.cache import collect_logits, verify_logits
    from kd.training.history import History
    from kd.training.loop import evaluate, fit
    from kd.types import Batch, Metric, Objective

__all__ = [
    "Batch",
    "DistillDataset",
    "DistilledClassifier",
    "DistilledRegressor",
    "History",
    "ImageDataset",
    "Metric",
    "Objective",
    "Predictions",
    "batches_differ",
    "capture",
    "collect_logits",
    "distilled",
    "evaluate",
    "fit",
    "judge",
    "kd_loss",
    "live_teacher",
    "load_mnist",
    "load_weights",
    "loader_like",
    "make_loader",
    "predict",
    "publish",
    "seeded",
    "supervised",
    "verify_logits",
    "weights_bytes",
]

_MODULES = {
    "classifier": ("DistilledClassifier",),
    "evaluation.judging": ("judge",),
    "data.datasets": ("DistillDataset", "ImageDataset"),
    "data.loaders": ("batches_differ", "loader_like", "make_loader"),
    "data.mnist": ("load_mnist",),
    "losses": ("kd_loss",),
    "methods.objectives": ("distilled", "live_teacher", "supervised"),
    "models.features": ("capture",),
    "models.inference": ("Predictions", "predict"),
    "regressor": ("DistilledRegressor",),
    "seeding": ("seeded",),
    "storage.files": ("publish",),
    "storage.weights": ("load_weights", "weights_bytes"),
    "teachers.cache": ("collect_logits", "verify_logits"),
    "training.history": ("History",),
    "training.loop": ("evaluate", "fit"),
    "types": ("Batch", "Metric", "Objective"),
}


def __getattr__(name: str) -> Any:
    """Import a public name at its first use: importing torch takes seconds, which ``kd --help`` does not need."""
    for module, names in _MODULES.items():
        if name in names:
            value = getattr(importlib.import_module(f"kd.{module}"), name)
            globals()[name] = value  # later lookups bypass this function
            return value
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
