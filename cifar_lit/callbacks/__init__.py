"""Thin shells over what a run shows and keeps, and those that a recipe may name: averages, distillation."""

from cifar_lit.callbacks.averaging import EMA, Lookahead
from cifar_lit.callbacks.distillation import Distillation

__all__ = ["EMA", "Distillation", "Lookahead"]
