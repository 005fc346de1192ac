import numpy as np
import pytest
import torch
from sklearn.datasets import load_sample_images


@pytest.fixture(scope="session")
def photographs() -> torch.Tensor:
    """Eight squares ``(8, 3, 224, 224)`` from scikit-learn's two photographs, in [0, 1]."""
    images = load_sample_images().images
    crops = [image[y : y + 224, x : x + 224] for image in images for y in (0, 200) for x in (0, 400)]
    return torch.from_numpy(np.stack(crops)).permute(0, 3, 1, 2) / 255.0
