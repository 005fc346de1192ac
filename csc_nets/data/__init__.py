"""Image sets as Lightning data modules; every random number follows from (seed, epoch, batch)."""

from csc_nets.data.embedded import digits, sample_images
from csc_nets.data.folder import ImageFolderDataModule, imagenet
from csc_nets.data.module import ImageDataModule
from csc_nets.data.photographs import PhotographDataModule
from csc_nets.data.registry import create_datamodule, list_datasets, register_dataset
from csc_nets.data.tensors import TensorDataModule
from csc_nets.data.vision import VisionDataModule

__all__ = [
    "ImageDataModule",
    "ImageFolderDataModule",
    "PhotographDataModule",
    "TensorDataModule",
    "VisionDataModule",
    "create_datamodule",
    "digits",
    "imagenet",
    "list_datasets",
    "register_dataset",
    "sample_images",
]
