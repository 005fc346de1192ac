import math

import pytest
import torch
from torchmetrics.functional.image import peak_signal_noise_ratio, structural_similarity_index_measure

from csc_nets.tasks.image_quality import psnr, ssim


@pytest.mark.parametrize("size", [8, 28])
@pytest.mark.parametrize("count", [1, 3])
def test_one_number_an_image_and_its_limits(size, count):
    torch.manual_seed(0)
    x = torch.rand(count, 3, size, size)
    assert (psnr(x, x) == math.inf).all()
    torch.testing.assert_close(psnr(x * 0, x * 0 + 0.1), torch.full((count,), 20.0))  # 10 log10(1 / 0.01)
    torch.testing.assert_close(ssim(x, x), torch.ones(count))


def test_means_are_those_of_torchmetrics():
    torch.manual_seed(0)
    x = torch.rand(5, 1, 20, 20)
    y = (x + 0.1 * torch.randn_like(x)).clamp(0, 1)
    torch.testing.assert_close(psnr(y, x).mean(), peak_signal_noise_ratio(y, x, data_range=1.0, dim=(1, 2, 3)))
    torch.testing.assert_close(ssim(y, x).mean(), structural_similarity_index_measure(y, x, data_range=1.0))
