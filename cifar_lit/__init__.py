"""Train, measure and understand small image classifiers with PyTorch Lightning."""

import os

# albumentations asks the network for a newer version when it is imported; nothing here may do that.
os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")

__version__ = "0.1.0"
