"""Datasets, loaders, splits and augmented views. Re-exports the public names of ``kd.data.datasets``."""

from kd.data.datasets import KEPT as KEPT
from kd.data.datasets import ArrayDataset as ArrayDataset
from kd.data.datasets import DistillDataset as DistillDataset
from kd.data.datasets import Gathered as Gathered
from kd.data.datasets import ImageDataset as ImageDataset
from kd.data.datasets import Split as Split
from kd.data.datasets import collate as collate
from kd.data.datasets import length_of as length_of
from kd.data.datasets import takes_rows as takes_rows
