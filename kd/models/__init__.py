"""Models: built-in networks, torchvision, timm and user files; intermediate features and inference."""

from kd.models.networks import CNN as CNN
from kd.models.networks import MLP as MLP
from kd.models.networks import MNIST_SHAPE as MNIST_SHAPE
from kd.models.networks import ConvNet as ConvNet
from kd.models.networks import require_images as require_images
