"""Thin shells over what a run shows and keeps."""
