"""Published figures, for comparison with measured ones. None of them was measured here.

Source: Gilbert, Zhang, Lee, Zhang, Lee, `Towards Understanding the Invertibility of Convolutional Neural Networks
<https://arxiv.org/abs/1705.08664>`_, Tables 1 to 4 of the version in ICLR 2017 format. Tables 2 to 4 were made with a
pretrained VGG-16 (model D), the ILSVRC-2012 validation images, and a decoding network.
"""

from typing import NamedTuple

__all__ = [
    "CIFAR10_ACCURACY",
    "VGG16_COHERENCE",
    "VGG16_NONZEROS",
    "VGG16_RECONSTRUCTION",
    "VGG16_SHAPES",
    "Filters",
    "Reconstruction",
]


class Filters(NamedTuple):
    """A figure for learned filters, and for random ones of the same shape."""

    learned: float
    random: float


class Reconstruction(NamedTuple):
    """Relative errors ``||x' - x|| / ||x||``, x' rescaled to the norm of x. An unrelated x' has the error 1.414."""

    learned: float
    random_filters: float
    random_activation: float


# Table 1: test accuracy in % by number of layers, the best of several widths and kernel sizes. The filters are learned,
# or random and frozen. The classifier on top is learned in both cases.
CIFAR10_ACCURACY = {1: Filters(68.1, 66.5), 2: Filters(83.3, 74.6), 3: Filters(89.3, 74.8)}

# Numbers of atoms and channels of the 3 x 3 convolutions. They are from the architecture, not from the paper.
VGG16_SHAPES = {
    "conv1_1": (64, 3),
    "conv1_2": (64, 64),
    "conv2_1": (128, 64),
    "conv2_2": (128, 128),
    "conv3_1": (256, 128),
    "conv3_2": (256, 256),
    "conv3_3": (256, 256),
    "conv4_1": (512, 256),
    "conv4_2": (512, 512),
    "conv4_3": (512, 512),
    "conv5_1": (512, 512),
    "conv5_2": (512, 512),
    "conv5_3": (512, 512),
}

# Table 2: share of non-zeros of the activations, in %.
VGG16_NONZEROS = {
    "conv1_1": 49.1,
    "conv1_2": 69.7,
    "pool1": 80.8,
    "conv2_1": 67.4,
    "conv2_2": 49.7,
    "pool2": 70.7,
    "conv3_1": 53.4,
    "conv3_2": 51.9,
    "conv3_3": 28.7,
    "pool3": 45.9,
    "conv4_1": 35.6,
    "conv4_2": 29.6,
    "conv4_3": 12.6,
    "pool4": 23.1,
    "conv5_1": 23.9,
    "conv5_2": 20.6,
    "conv5_3": 7.3,
    "pool5": 13.1,
}

# Table 3: errors of the decoded image, and of the activation itself. The activations of pool i are inverted with the
# filters of the next convolution.
VGG16_RECONSTRUCTION = {
    ("pool1", "image"): Reconstruction(0.423, 0.380, 0.610),
    ("pool2", "image"): Reconstruction(0.692, 0.438, 0.864),
    ("pool3", "image"): Reconstruction(0.326, 0.345, 0.652),
    ("pool4", "image"): Reconstruction(0.379, 0.357, 0.436),
    ("pool1", "activation"): Reconstruction(0.895, 0.872, 1.414),
    ("pool2", "activation"): Reconstruction(0.961, 0.926, 1.414),
    ("pool3", "activation"): Reconstruction(0.912, 0.862, 1.414),
    ("pool4", "activation"): Reconstruction(1.051, 0.992, 1.414),
}

# Table 4: largest inner product of two different flattened unit filters, without shifts. The column of random filters
# suggests that the sign counts: ``mutual_coherence(weight, shifts=False, signed=True)``.
VGG16_COHERENCE = {
    "conv1_1": Filters(0.9427, 0.6701),
    "conv1_2": Filters(0.7340, 0.1218),
    "conv2_1": Filters(0.6435, 0.1546),
    "conv2_2": Filters(0.7465, 0.1053),
    "conv3_1": Filters(0.5838, 0.1099),
    "conv3_2": Filters(0.4844, 0.0895),
    "conv3_3": Filters(0.5194, 0.0802),
    "conv4_1": Filters(0.4596, 0.0920),
    "conv4_2": Filters(0.4574, 0.0619),
    "conv4_3": Filters(0.4043, 0.0617),
    "conv5_1": Filters(0.4099, 0.0696),
    "conv5_2": Filters(0.4099, 0.0674),
    "conv5_3": Filters(0.4046, 0.0674),
}
