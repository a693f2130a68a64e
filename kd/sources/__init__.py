"""Data of one's own: opened from whatever they lie in, checked, split and normalised."""

from kd.sources.opening import open_source as open_source
from kd.sources.source import Source as Source
from kd.sources.splitting import Parts as Parts
from kd.sources.splitting import split_source as split_source
from kd.sources.unlabelled import open_unlabelled as open_unlabelled
