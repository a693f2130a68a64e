"""Data that comes with the package."""

from kd.datasets.mnist import load_mnist as load_mnist
