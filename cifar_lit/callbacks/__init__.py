"""Thin shells over what a run shows and keeps, and those that a recipe may name: averages, a teacher, small images."""

from cifar_lit.callbacks.averaging import EMA, Lookahead
from cifar_lit.callbacks.distillation import Distillation
from cifar_lit.callbacks.resizing import ProgressiveResizing

__all__ = ["EMA", "Distillation", "Lookahead", "ProgressiveResizing"]
