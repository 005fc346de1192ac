"""How near a set of images is to another as a whole, in the feature space of a network that must be named."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from csc_nets.checkpoint import load
from csc_nets.data import create_datamodule
from csc_nets.evaluation.features import extract_features
from csc_nets.tasks.run_folder import RunFolder

__all__ = ["FeatureSpace", "feature_space", "frechet_distance", "kernel_distance"]


@dataclass(frozen=True)
class FeatureSpace:
    """Where images are compared.

    Attributes:
        name: what a figure must be quoted with.
        extract: from pixels in [0, 1], ``(N, C, H, W)``, to features ``(N, d)``.
    """

    name: str
    extract: Callable[[Tensor], Tensor]

    @torch.no_grad()
    def features(self, batches: Iterable[Tensor]) -> Tensor:
        """Features ``(N, d)`` of pixels in [0, 1], on the CPU, in float64."""
        return torch.cat([self.extract(pixels).double().cpu() for pixels in batches])


def feature_space(network: str | Path) -> FeatureSpace:
    """The features before the last layer of a trained network.

    Args:
        network: run folder of a classifier, or ``"inception"``: the Inception network of the published figures, which
            needs torch-fidelity and its weights.

    Raises:
        FileNotFoundError: no such run folder.
        ValueError: the run is no classifier, or Inception is not there.
    """
    if str(network) == "inception":
        return FeatureSpace("Inception v3, 2048 features", _inception())
    folder = RunFolder(Path(network).absolute())
    config = folder.config()
    model = load(folder.path)
    if config["task"].get("name") != "classification":
        raise ValueError(
            f"network must be a run folder of a classifier, {folder.path} is one of {config['task']['name']}"
        )
    data = create_datamodule(**config["data"])
    mean, std = (torch.tensor(values).view(-1, 1, 1) for values in (data.mean, data.std))
    seen = (data.in_chans, data.image_size, data.image_size)

    def extract(pixels: Tensor) -> Tensor:
        if pixels.shape[1:] != seen:
            raise ValueError(f"network {folder.path} was trained on images {seen}, got {tuple(pixels.shape[1:])}")
        images = (pixels - mean.to(pixels)) / std.to(pixels)
        return extract_features(model, [(images, torch.zeros(len(images)))])[0]

    trained = "/".join(folder.path.parts[-2:])
    return FeatureSpace(f"{config['model']['name']} trained on {config['data']['name']} ({trained})", extract)


def frechet_distance(first: Tensor, second: Tensor) -> float:
    r"""Frechet distance of the normal distributions with the means and covariances of two feature sets.

    .. math:: \|m_1 - m_2\|^2 + \operatorname{tr}\bigl(C_1 + C_2 - 2 (C_1 C_2)^{1/2}\bigr)

    Heusel et al., `FID <https://arxiv.org/abs/1706.08500>`_, 2017; as torchmetrics computes it. It is biased upwards
    for few images, and means little for fewer than features have dimensions.

    Args:
        first: ``(n, d)``, n >= 2.
        second: ``(m, d)``, m >= 2.
    """
    from torchmetrics.image.fid import FrechetInceptionDistance

    metric: Any = FrechetInceptionDistance(feature=_Given(_checked(first, second)))
    metric.update(first.double(), real=True)
    metric.update(second.double(), real=False)
    return max(0.0, metric.compute().item())  # of equal sets it is zero but for rounding


def kernel_distance(first: Tensor, second: Tensor, *, subsets: int = 100, size: int = 1000, seed: int = 0) -> float:
    r"""Squared maximum mean discrepancy of two feature sets under the kernel :math:`(x^T y / d + 1)^3`.

    Binkowski et al., `KID <https://arxiv.org/abs/1801.01401>`_, 2018; as torchmetrics computes it: an unbiased
    estimate, which may be negative.

    Args:
        first: ``(n, d)``, n >= 2.
        second: ``(m, d)``, m >= 2.
        subsets: random subsets over which the estimate is averaged.
        size: features in a subset, at least 2; where a set has no more, one subset takes all that both can give.
        seed: of the subsets.
    """
    from torchmetrics.image.kid import KernelInceptionDistance

    if size < 2:
        raise ValueError(f"kernel_distance: size must be at least 2, got {size}")
    fits = min(len(first), len(second))
    given = _Given(_checked(first, second))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        metric: Any = KernelInceptionDistance(given, subsets=subsets if fits > size else 1, subset_size=min(size, fits))
        metric.update(first.double(), real=True)
        metric.update(second.double(), real=False)
        return metric.compute()[0].item()


class _Given(nn.Module):
    """Tells torchmetrics that what it is given are features."""

    def __init__(self, num_features: int) -> None:
        super().__init__()
        self.num_features = num_features

    def forward(self, features: Tensor) -> Tensor:
        return features


def _checked(first: Tensor, second: Tensor) -> int:
    if first.ndim != 2 or second.ndim != 2 or first.shape[1] != second.shape[1] or min(len(first), len(second)) < 2:
        seen = f"{tuple(first.shape)} and {tuple(second.shape)}"
        raise ValueError(f"features must be (n, d) and (m, d), n and m >= 2, got {seen}")
    return first.shape[1]


def _inception() -> Callable[[Tensor], Tensor]:
    from torchmetrics.image.fid import FrechetInceptionDistance

    try:
        network: Any = FrechetInceptionDistance(feature=2048).inception
    except Exception as error:  # not installed, or its weights cannot be fetched
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ValueError(f"network=inception needs torch-fidelity and its weights: {reason}") from error

    def extract(pixels: Tensor) -> Tensor:
        return network((255 * pixels).round().to(torch.uint8).expand(-1, 3, -1, -1))

    return extract
