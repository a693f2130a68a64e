"""Knowledge distillation: mechanisms. Importable and installable by itself; knows nothing of the pipeline around it.

history = kd.fit(student, kd.distilled(temperature=5, alpha=0.5), train_loader, val_loader, ...)
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # for type checkers and editors; at run time a name is imported when it is first used
    from kd.cache import collect_logits, verify_logits
    from kd.checkpoint import load_weights, publish, weights_bytes
    from kd.classifier import DistilledClassifier
    from kd.data import DistillDataset, ImageDataset
    from kd.datasets import load_mnist
    from kd.features import capture
    from kd.history import History
    from kd.loaders import batches_differ, loader_like, make_loader
    from kd.loop import Predictions, evaluate, fit, predict
    from kd.losses import kd_loss
    from kd.objectives import distilled, live_teacher, supervised
    from kd.seeding import seeded
    from kd.types import Batch, Metric, Objective

__all__ = [
    "Batch",
    "DistillDataset",
    "DistilledClassifier",
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
    "cache": ("collect_logits", "verify_logits"),
    "checkpoint": ("load_weights", "publish", "weights_bytes"),
    "classifier": ("DistilledClassifier",),
    "data": ("DistillDataset", "ImageDataset"),
    "datasets": ("load_mnist",),
    "features": ("capture",),
    "history": ("History",),
    "loaders": ("batches_differ", "loader_like", "make_loader"),
    "loop": ("Predictions", "evaluate", "fit", "predict"),
    "losses": ("kd_loss",),
    "objectives": ("distilled", "live_teacher", "supervised"),
    "seeding": ("seeded",),
    "types": ("Batch", "Metric", "Objective"),
}


def __getattr__(name: str) -> Any:
    """The public name, imported now: torch takes seconds, which ``kd --help`` has no use for."""
    for module, names in _MODULES.items():
        if name in names:
            value = getattr(importlib.import_module(f"kd.{module}"), name)
            globals()[name] = value  # found without this function from now on
            return value
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
