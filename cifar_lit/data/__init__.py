"""Data sets. Importing them here lets a recipe name them without their module."""

from cifar_lit.data.alternating_flip import AlternatingFlip
from cifar_lit.data.cifar import CIFAR10DataModule, CIFAR100DataModule
from cifar_lit.data.datamodule import ImageDataModule
from cifar_lit.data.digits import DigitsDataModule
from cifar_lit.data.image_folder import ImageFolderDataModule
from cifar_lit.data.images import Images

__all__ = [
    "AlternatingFlip",
    "CIFAR10DataModule",
    "CIFAR100DataModule",
    "DigitsDataModule",
    "ImageDataModule",
    "ImageFolderDataModule",
    "Images",
]
