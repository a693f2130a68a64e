"""Student epochs by Keras on its PyTorch backend: ``keras.distillation.Distiller``, images as one array in memory.

The array is how Keras' own examples feed MNIST: it is made before the clock starts, and no transform runs per image.
"""

import os
import time
from typing import Any

os.environ["KERAS_BACKEND"] = "torch"

import keras
import numpy as np

from obvious import ALPHA, BATCH_SIZE, LEARNING_RATE, TEMPERATURE
from student_epoch import loader, parser, report


def make_teacher() -> Any:
    """The layers of ``obvious.Teacher``; channels last, which is Keras' default."""
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
    """Compiled with the same loss: ``alpha`` weighs the labels, and LogitsDistillation multiplies by T² itself.

    The divergence is given as an object: under its default name, "kl_divergence", Keras 3.15.1 leaves the softmax out
    and takes it of bare logits, so that the loss goes below 0.
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
    arguments = parser(__doc__).parse_args()
    pairs = list(loader(arguments))
    images = np.concatenate([batch.permute(0, 2, 3, 1).numpy() for batch, _ in pairs])
    labels = np.concatenate([batch.numpy() for _, batch in pairs])
    model, clock = make_model(plain=arguments.no_teacher), Clock()
    kept = model.fit(images, labels, batch_size=BATCH_SIZE, epochs=arguments.epochs, verbose=0, callbacks=[clock])
    report(clock.seconds, len(images), keras.__version__, loss=kept.history["loss"][-1])


if __name__ == "__main__":
    main()
