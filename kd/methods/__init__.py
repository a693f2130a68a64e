"""Distillation methods by name: the table of methods, and functions that build their objectives.

objective = kd.methods.make("dkd", student, teacher, batch, {"beta": 2})
"""

from kd.methods.factory import make as make
from kd.methods.factory import method_named as method_named
from kd.methods.factory import require_mixing_method as require_mixing_method
from kd.methods.factory import require_unlabelled_method as require_unlabelled_method
from kd.methods.factory import settings_of as settings_of
from kd.methods.factory import try_method as try_method
from kd.methods.table import METHODS as METHODS
from kd.methods.table import Method as Method
from kd.methods.table import Setting as Setting
