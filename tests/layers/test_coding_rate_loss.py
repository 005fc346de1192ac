import os
import sys

import pytest
import torch
from processes import of_two

from csc_nets.functional import coding_rate
from csc_nets.layers import CodingRateLoss


def test_it_is_minus_the_rate_on_the_sphere():
    x = torch.randn(20, 6)
    unit = torch.nn.functional.normalize(x, dim=1)
    torch.testing.assert_close(CodingRateLoss(0.3)(x), -coding_rate(unit, 0.3))
    torch.testing.assert_close(CodingRateLoss(0.3, normalize=False)(x), -coding_rate(x, 0.3))
    # One direction a class, d = 2: R - R_c = log 3 - log 5 / 2, the example of rate_reduction.
    value = CodingRateLoss()(7 * torch.eye(2), torch.tensor([0, 1]))
    torch.testing.assert_close(value, -torch.tensor(0.2939), rtol=1e-3, atol=0)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_costs_only_the_rounding_of_the_features(dtype):
    x = torch.randn(256, 64)
    x[:, 1:] *= 1e-3  # a determinant that half precision cannot hold
    half = x.to(dtype).requires_grad_()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = CodingRateLoss(0.05)(half)
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, CodingRateLoss(0.05)(half.detach().double()).float(), rtol=1e-5, atol=1e-6)
    loss.backward()
    assert half.grad.dtype == dtype and half.grad.isfinite().all()


def gradients(rank: int, world: int) -> dict[str, torch.Tensor]:
    """Loss, and the gradient of the shared map from the inputs of one process, as a mean over the processes."""
    g = torch.Generator().manual_seed(0)
    inputs, labels = torch.randn(24, 5, generator=g, dtype=torch.float64), torch.arange(24) % 3
    weight = torch.randn(5, 5, generator=g, dtype=torch.float64, requires_grad=True)
    mine = slice(rank * 24 // world, (rank + 1) * 24 // world)
    losses = [CodingRateLoss()(inputs[mine] @ weight), CodingRateLoss()(inputs[mine] @ weight, labels[mine])]
    (gradient,) = torch.autograd.grad(sum(losses), weight)
    if world > 1:
        torch.distributed.all_reduce(gradient)
    return {"gradient": gradient / world, "losses": torch.stack(losses).detach()}


def test_two_processes_have_the_rate_and_the_gradient_of_the_whole_batch(tmp_path):
    torch.testing.assert_close(of_two(__file__, tmp_path), gradients(0, 1))


def work(rank: int, file: str) -> None:
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": os.environ["LOSS_PORT"]}
    torch.distributed.init_process_group("gloo", rank=rank, world_size=2)
    found = gradients(rank, 2)
    if rank == 0:
        torch.save(found, file)
    torch.distributed.barrier()  # a process that leaves early ends the sums of the other
    torch.distributed.destroy_process_group()


def test_bad_numbers_are_refused():
    with pytest.raises(ValueError, match="eps must be greater than 0, got 0"):
        CodingRateLoss(0)
    with pytest.raises(ValueError, match=r"expected features \(n, d\), got \(5,\)"):
        CodingRateLoss()(torch.randn(5))


if __name__ == "__main__":
    import socket

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        os.environ["LOSS_PORT"] = str(free.getsockname()[1])
    torch.multiprocessing.spawn(work, (sys.argv[1],), nprocs=2)
