"""The bounds of pooling, rectifiers and normalisations, as the profile of a network uses them."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from csc_nets.theory import energy_profile


@pytest.mark.parametrize("pool", [nn.AvgPool2d(2), nn.AdaptiveAvgPool2d(16)])
def test_averages_of_noise_and_of_a_constant(pool, noise):
    (row,) = energy_profile(pool, noise).rows
    assert row.cause == "pooling" and row.bound == pytest.approx(1 / 4)
    assert row.kept == pytest.approx(1 / 4, rel=0.05)
    assert energy_profile(pool, torch.ones(1, 1, 32, 32)).rows[0].kept == pytest.approx(1)


def test_a_global_mean_is_an_average_and_a_mean_over_channels_is_not(noise):
    class Mean(nn.Module):
        def __init__(self, dim):
            super().__init__()
            self.dim = dim

        def forward(self, x):
            return F.relu(x).mean(dim=self.dim)

    (*_, row) = energy_profile(Mean((2, 3)), noise).rows
    assert (row.kind, row.cause) == ("mean", "pooling") and row.bound == pytest.approx(1 / 1024, rel=1e-4)
    assert [row.cause for row in energy_profile(Mean(1), noise).rows] == ["rectification"]


def test_a_maximum_keeps_what_it_chooses(noise):
    (row,) = energy_profile(nn.MaxPool2d(2), torch.ones(1, 1, 8, 8)).rows
    assert (row.cause, row.bound, row.kept) == ("pooling", 1.0, 0.25)
    (row,) = energy_profile(nn.MaxPool2d(3, 2, 1), noise).rows
    assert row.bound == 4  # a number lies in up to 2 x 2 windows
    spike = torch.zeros(1, 1, 9, 9)
    spike[..., 3, 3] = 1
    assert energy_profile(nn.MaxPool2d(3, 2, 1), spike).rows[0].kept == 1
    (row,) = energy_profile(nn.AdaptiveMaxPool2d(1), torch.ones(1, 1, 4, 4)).rows
    assert row.kept == 1 / 16


def test_a_maximum_counts_the_windows_that_share_a_number():
    image = torch.zeros(1, 1, 5, 1)
    image[0, 0, 2] = 1
    (row,) = energy_profile(nn.AdaptiveMaxPool2d((3, 1)), image).rows  # windows 0-1, 1-3, 3-4
    assert (row.energy_out, row.bound, row.kept) == (1, 2, 0.5)
    spike = torch.zeros(1, 1, 5, 5)
    spike[..., 1, 2] = 1
    (row,) = energy_profile(nn.AdaptiveMaxPool2d(3), spike).rows
    assert (row.energy_out, row.bound) == (2, 4)
    assert energy_profile(nn.AdaptiveMaxPool2d((None, 1)), spike).rows[0].bound == 1
    dilated = torch.zeros(1, 9)
    dilated[0, 4] = 1  # in the windows from 0, 2 and 4, each of every second number
    (row,) = energy_profile(nn.Sequential(nn.Unflatten(1, (1, 9)), nn.MaxPool1d(3, 2, dilation=2)), dilated).rows
    assert (row.energy_out, row.bound, row.kept) == (3, 3, 1)


@pytest.mark.parametrize(
    "rectifier, bound",
    [
        (nn.LeakyReLU(0.1), 1),
        (nn.LeakyReLU(2.0), 4),
        (nn.ELU(3.0), 9),
        (nn.Hardtanh(-1, 2), 1),
        (nn.Hardtanh(), 1),
        (nn.ReLU6(), 1),
    ],
)
def test_a_rectifier_is_measured_against_its_steepest_slope(rectifier, bound):
    x = -1e-3 * torch.rand(4, 8)
    (row,) = energy_profile(rectifier, x).rows
    made = rectifier(x).double().square().sum() / x.double().square().sum()
    assert row.bound == bound and row.kept == pytest.approx(made.item() / bound, rel=1e-6)


@pytest.mark.parametrize(
    "norm, axes",
    [
        (nn.LayerNorm([2, 32, 32]), (1, 2, 3)),
        (nn.LayerNorm(32), 3),
        (nn.GroupNorm(1, 2), (1, 2, 3)),
        (nn.GroupNorm(2, 2), (2, 3)),
        (nn.InstanceNorm2d(2), (2, 3)),
    ],
)
def test_a_normalisation_that_takes_the_mean_out_loses_it(norm, axes, noise):
    x = noise + 1
    (row,) = energy_profile(norm, x).rows
    lost = x.mean(axes, keepdim=True).expand_as(x).square().sum() / x.square().sum()
    assert row.cause == "centring" and row.removed == pytest.approx(lost.item(), rel=1e-4)


def test_normalisations_by_running_statistics_and_by_size_lose_nothing(noise):
    for norm in (nn.InstanceNorm2d(2, track_running_stats=True), nn.RMSNorm(32)):
        (row,) = energy_profile(norm, noise + 1).rows
        assert (row.cause, row.kept) == ("scale", 1)
