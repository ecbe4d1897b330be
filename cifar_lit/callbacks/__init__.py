"""Thin shells over what a run shows and keeps, and those that a recipe may name: averages, distillation."""

from cifar_lit.callbacks import averaging as averaging
from cifar_lit.callbacks import distillation as distillation
