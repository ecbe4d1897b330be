"""Thin shells, one function a command, over what `explain` computes."""
