import copy

import torch
from torch import nn

from csc_nets.models.checkpointing import checkpoint_stage


class Counter(nn.Module):
    """Scales by a buffer that every training forward advances, as a power iteration does."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(2.0))
        self.register_buffer("scale", torch.ones(()))

    def forward(self, x):
        if self.training:
            self.scale.mul_(1.5)
        return (x * self.weight * self.scale.clone()).sin()


def test_two_forwards_before_one_backward_are_each_repeated_exactly():
    torch.manual_seed(0)
    plain = nn.Sequential(nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3), Counter(), nn.Dropout(0.5))
    saving = copy.deepcopy(plain)
    x = torch.randn(4, 2, 6, 6)
    results = []
    for stage, run in ((plain, plain), (saving, lambda x: checkpoint_stage(saving, x))):
        torch.manual_seed(1)
        (run(x).sum() + 2 * run(2 * x).square().sum()).backward()
        results.append([p.grad for p in stage.parameters()] + list(stage.buffers()))
    for ours, theirs in zip(*results, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=0)
    assert saving[2].scale == 1.5**2 and saving[1].num_batches_tracked == 2


def test_activations_are_not_kept():
    stage = nn.Sequential(*[nn.Sequential(nn.Linear(32, 32), nn.Tanh()) for _ in range(8)])
    x = torch.randn(64, 32, requires_grad=True)
    kept = {}
    for name, run in (("plain", stage), ("saving", lambda x: checkpoint_stage(stage, x))):
        sizes = []
        with torch.autograd.graph.saved_tensors_hooks(lambda t, s=sizes: s.append(t.numel()) or t, lambda t: t):
            run(x)
        kept[name] = sum(sizes)
    assert kept["saving"] < 0.2 * kept["plain"]


def test_compiled_network_with_checkpointing_has_the_same_gradient(narrow, images):
    plain, x = narrow("csc_small"), images()
    saving = copy.deepcopy(plain)
    saving.set_grad_checkpointing()
    torch.compiler.reset()
    compiled = torch.compile(saving, fullgraph=True, backend="aot_eager")
    for run in (plain, compiled):
        for _ in range(2):
            run(x).square().sum().backward()
    for ours, theirs in zip(saving.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad)
    for ours, theirs in zip(saving.buffers(), plain.buffers(), strict=True):
        torch.testing.assert_close(ours, theirs)
