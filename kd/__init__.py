"""Knowledge distillation: mechanisms. Importable and installable by itself; knows nothing of the pipeline around it.

history = kd.fit(student, kd.distilled(temperature=5, alpha=0.5), train_loader, val_loader, ...)
"""

from kd.cache import collect_logits, verify_logits
from kd.checkpoint import load_weights, publish, weights_bytes
from kd.data import DistillDataset, ImageDataset, batches_differ, loader_like, make_loader, stratified_order
from kd.datasets import load_mnist
from kd.history import History
from kd.loop import Predictions, evaluate, fit, predict
from kd.losses import kd_loss
from kd.objectives import distilled, live_teacher, supervised
from kd.seeding import seeded
from kd.types import Batch, Metric, Objective

__all__ = [
    "Batch",
    "DistillDataset",
    "History",
    "ImageDataset",
    "Metric",
    "Objective",
    "Predictions",
    "batches_differ",
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
    "stratified_order",
    "supervised",
    "verify_logits",
    "weights_bytes",
]
