"""One architecture a file. Importing them here lets a recipe name them without their module."""

from cifar_lit.models.cifar_resnet import ResNetV1, ResNetV2
from cifar_lit.models.depthwise import DepthwiseNet
from cifar_lit.models.dilated_separable import DilatedSeparableNet
from cifar_lit.models.plain_cnn import PlainCNN
from cifar_lit.models.resnet18 import ResNet18
from cifar_lit.models.speed import SpeedNet

__all__ = ["DepthwiseNet", "DilatedSeparableNet", "PlainCNN", "ResNet18", "ResNetV1", "ResNetV2", "SpeedNet"]
