"""The image corruptions of ImageNet-C, Tiny-ImageNet-C and CIFAR-10-C, in batches on the device of the images.

Source: D. Hendrycks and T. Dietterich, *Benchmarking Neural Network Robustness to Common Corruptions and
Perturbations*, ICLR 2019. The constants are those of the programs that made the published folders.
"""

# An import registers what the file defines.
from csc_nets.evaluation.corruptions import blur, colour, digital, frost, noise, spatter, weather  # noqa: F401
from csc_nets.evaluation.corruptions.published import PublishedCorruptions
from csc_nets.evaluation.corruptions.registry import corrupt, list_corruptions, register_corruption

__all__ = ["PublishedCorruptions", "corrupt", "list_corruptions", "register_corruption"]
