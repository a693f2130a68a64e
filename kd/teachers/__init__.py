"""Teachers loaded from weights or logits, ensembles of teachers, and their cached logits."""

from kd.teachers.class_order import Reordered as Reordered
from kd.teachers.load import load_teacher as load_teacher
from kd.teachers.load import teacher_accuracy as teacher_accuracy
