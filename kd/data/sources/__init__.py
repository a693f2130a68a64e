"""Functions that open, check, split and normalise users' datasets."""

from kd.data.sources.kinds import open_source as open_source
from kd.data.sources.partition import Splits as Splits
from kd.data.sources.partition import split_source as split_source
from kd.data.sources.source import Source as Source
from kd.data.sources.unlabelled import open_unlabelled as open_unlabelled
