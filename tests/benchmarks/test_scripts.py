"""Every benchmark that the docs name completes a quick run."""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
from pathlib import Path

import pytest

import config

BENCHMARKS = Path(config.__file__).parent / "benchmarks"

SCRIPTS = {
    "default_pair.py": "--limit 600 --epochs 1 --seeds 0-1 --widths 8 --out {folder}/pair.json",
    "fixed_cost.py": "--rounds 1 --limit 300 --all-images 300",
