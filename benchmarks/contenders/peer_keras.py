"""Student epochs with Keras on its PyTorch backend: ``keras.distillation.Distiller``, images as one array in memory.

Keras' own examples use MNIST as one array. It is made before the clock starts, and no transform runs per image.
"""

import os
import time
from typing import Any

os.environ["KERAS_BACKEND"] = "torch"

import keras
import numpy as np

from obvious import ALPHA, BATCH_SIZE, LEARNING_RATE, TEMPERATURE
from student_epoch import make_loader, make_parser, print_report


def make_teacher() -> Any:
    """Return the layers of ``obvious.Teacher``, channels last (Keras' default)."""
    layers = [keras.Input((28, 28, 1))]
    for filters, pooled in ((32, True), (64, True), (128, False)):
        layers += [keras.layers.Conv2D(filters, 3), keras.layers.BatchNormalization(), keras.layers.ReLU()]
        layers += [keras.layers.MaxPooling2D()] if pooled else []
        layers += [keras.layers.Dropout(0.25)]
    dense = [keras.layers.Dense(256, activation="relu"), keras.layers.Dropout(0.5), keras.layers.Dense(10)]
    return keras.Sequential([*layers, keras.layers.Flatten(), *dense])


def make_student() -> Any:
    dense = [keras.layers.Dense(256, activation="relu"), keras.layers.Dense(10)]
    return keras.Sequential([keras.Input((28, 28, 1)), keras.layers.Flatten(), *dense])


def make_model(*, plain: bool) -> Any:
    """Return a model compiled with the same loss: ``alpha`` weights the labels, and LogitsDistillation applies T².

    The divergence is passed as an object: by its default name, "kl_divergence", Keras 3.15.1 omits the softmax and
    uses raw logits, so the loss becomes negative.
    """
    model = make_student()
    if not plain:
        soft = keras.distillation.LogitsDistillation(TEMPERATURE, keras.losses.KLDivergence())
        model = keras.distillation.Distiller(make_teacher(), model, soft, student_loss_weight=ALPHA)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(optimizer=keras.optimizers.Adam(LEARNING_RATE), loss=loss)
    return model


class Clock(keras.callbacks.Callback):
    def __init__(self) -> None:
        super().__init__()
        self.started, self.seconds = 0.0, list[float]()

    def on_epoch_begin(self, *_: Any) -> None:
        self.started = time.perf_counter()

    def on_epoch_end(self, *_: Any) -> None:
        self.seconds.append(time.perf_counter() - self.started)


def main() -> None:
    arguments = make_parser(__doc__).parse_args()
    pairs = list(make_loader(arguments))
    images = np.concatenate([batch.permute(0, 2, 3, 1).numpy() for batch, _ in pairs])
    labels = np.concatenate([batch.numpy() for _, batch in pairs])
    model, clock = make_model(plain=arguments.no_teacher), Clock()
    history = model.fit(images, labels, batch_size=BATCH_SIZE, epochs=arguments.epochs, verbose=0, callbacks=[clock])
    print_report(clock.seconds, len(images), keras.__version__, loss=history.history["loss"][-1])


if __name__ == "__main__":
    main()
