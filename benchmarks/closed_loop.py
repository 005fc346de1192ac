"""Time of one step of the closed-loop game, both players, with sparse coding and with plain convolutions.

    python benchmarks/closed_loop.py [--peer PATH] [--quick] [--json FILE] [--threads N] [--device cuda]

Networks of 32 x 32 pixels, the game with labels, batches of 64 images of ten classes. Besides the two networks each is
compared with its floor, the convolutions that the step must make and nothing else; and the bytes that a step keeps for
its backward pass are counted. PATH is a clone of github.com/Delay-Xili/LDR: with it our step is compared with the
published one, that repository's loss in the loop of its ``trainer.py``, on the same plain network. The values of the
game must agree to 1e-5 before they are timed.
"""

import copy
import importlib.util
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import timing
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import csc_nets
from csc_nets.layers import Dictionary2d
from csc_nets.tasks import TranscriptionTask

LR, BETAS = 1.5e-4, (0.5, 0.999)


class Alone(TranscriptionTask):
    """The task's own training step, without a trainer around it."""

    def __init__(self, model: nn.Module, objective: str) -> None:
        super().__init__(model, objective=objective, optimizer="adamw", lr=LR)
        self.players = [torch.optim.Adam(side, lr=LR, betas=BETAS) for side in model.players()]  # type: ignore[operator]
        self.value = 0.0

    def optimizers(self, use_pl_optimizer: bool = True) -> Any:
        return self.players

    def lr_schedulers(self) -> Any:
        return []

    def manual_backward(self, loss: Tensor, *args: Any, **kwargs: Any) -> None:
        loss.backward()

    def log(self, name: str, value: Any, *args: Any, **kwargs: Any) -> None:
        if name == "loss":
            self.value = value.item()

    def log_dict(self, dictionary: Any, *args: Any, **kwargs: Any) -> None:
        pass


class Published:
    """The loop of the authors' ``trainer.py``, with one step of the encoder, and the loss of their ``loss.py``.

    The last backward pass goes through the first use of the encoder too, whose gradient nobody takes.
    """

    def __init__(self, model: Any, objective: str, folder: Path) -> None:
        spec = importlib.util.spec_from_file_location("authors", folder / "mcrgan" / "loss.py")
        assert spec is not None and spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        self.loss = module.MCRGANloss(numclasses=10, mode={"binary": 0, "multi": 1}[objective])
        self.model = model
        self.players = [torch.optim.Adam(side, lr=LR, betas=BETAS) for side in model.players()]
        self.value = 0.0

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> float:
        images, labels = batch
        encoder, decoder = self.players
        self.model.zero_grad()
        z = self.model.encode(images)
        x_hat = self.model.decode(z)
        loss, _ = self.loss(z, self.model.encode(x_hat.detach()), labels, 0, 1)
        loss.backward()
        encoder.step()
        self.model.zero_grad()
        z = self.model.encode(images)
        loss, _ = self.loss(z, self.model.encode(self.model.decode(z)), labels, 0, 1)
        self.value = -loss.item()
        (-loss).backward()
        decoder.step()
        return self.value


class Convolutions:
    """The convolutions of both players' steps, as few as there can be: 4 stages, those of the encoder ``uses`` each.

    Forward the encoder runs twice and the decoder once in either step; for the encoder the gradients of all weights and
    of all inputs but the images are taken, twice; for the decoder those of inputs through the encoder, and of weights
    and inputs, but the features, through the decoder.
    """

    def __init__(self, model: Any, device: str) -> None:
        self.sparse = hasattr(model, "decoder")
        if self.sparse:
            forth = [module.weight for module in model.stages.modules() if isinstance(module, Dictionary2d)]
            back = [dictionary.weight for dictionary in model.decoder.dictionaries]
        else:
            forth = [module.weight for module in model.stages.modules() if isinstance(module, nn.Conv2d)]
            back = [transposed.weight for transposed in model.transposed]
        self.forth, self.back = ([w.detach().clone().requires_grad_() for w in side] for side in (forth, back))
        self.geometry = [(2, 1), (2, 1), (2, 1), (1, 0)]  # stride and padding of each stage

    def encode(self, x: Tensor) -> Tensor:
        for weight, (stride, padding) in zip(self.forth, self.geometry, strict=True):
            x = F.conv2d(x, weight, None, stride, padding)
            if self.sparse:  # two steps from zero: an analysis, then a synthesis and an analysis
                x = F.conv2d(F.conv_transpose2d(x, weight, None, stride, padding), weight, None, stride, padding)
            x = x / 8  # so that numbers stay in range
        return x

    def decode(self, z: Tensor) -> Tensor:
        for weight, (stride, padding) in zip(self.back, self.geometry[::-1], strict=True):
            z = F.conv_transpose2d(z, weight, None, stride, padding)
        return z

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        x, _ = batch
        z = self.encode(x)
        with torch.no_grad():
            x_hat = self.decode(z)
        torch.autograd.grad((z + self.encode(x_hat)).sum(), self.forth)
        with torch.no_grad():
            z = self.encode(x)
        frozen = self.forth
        self.forth = [weight.detach() for weight in frozen]
        torch.autograd.grad(self.encode(self.decode(z)).sum(), self.back)
        self.forth = frozen


def saved(step: Any, batch: tuple[Tensor, Tensor]) -> float:
    """MiB that a step keeps for its larger backward pass, without the leaves of the graph: parameters and images."""
    kept: dict[int, int] = {}
    largest = 0

    def pack(tensor: Tensor) -> Tensor:
        nonlocal largest
        if not tensor.is_leaf:
            storage = tensor.untyped_storage()
            kept[storage.data_ptr()] = storage.nbytes()
            largest = max(largest, sum(kept.values()))
        return tensor

    def unpack(tensor: Tensor) -> Tensor:
        kept.clear()  # a backward pass has begun
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, unpack):
        step.training_step(batch, 0)
    return largest / 2**20


def main() -> None:
    options = timing.parser(__doc__.splitlines()[0])
    options.add_argument("--peer", type=Path, help="clone of github.com/Delay-Xili/LDR")
    chosen = options.parse_args()
    torch.set_num_threads(chosen.threads)
    torch.manual_seed(0)
    size = 16 if chosen.quick else 64
    labels = torch.arange(size) % 10
    batch = (2 * torch.rand(size, 3, 32, 32) - 1).to(chosen.device), labels.to(chosen.device)
    csc, conv = (csc_nets.create_model(f"{name}_ctrl_32").to(chosen.device).train() for name in ("csc", "conv"))

    steps: dict[str, Any] = {
        "csc_ctrl_32": Alone(copy.deepcopy(csc), "multi"),
        "conv_ctrl_32": Alone(copy.deepcopy(conv), "multi"),
        "convolutions of csc_ctrl_32": Convolutions(csc, chosen.device),
        "convolutions of conv_ctrl_32": Convolutions(conv, chosen.device),
    }
    pairs = [
        ("csc_ctrl_32", "conv_ctrl_32"),
        ("csc_ctrl_32", "convolutions of csc_ctrl_32"),
        ("conv_ctrl_32", "convolutions of conv_ctrl_32"),
    ]
    if chosen.peer is not None:
        for objective in ("multi", "binary"):
            ours, theirs = Alone(copy.deepcopy(conv), objective), Published(copy.deepcopy(conv), objective, chosen.peer)
            ours.training_step(batch, 0)
            torch.testing.assert_close(ours.value, theirs.training_step(batch, 0), rtol=1e-5, atol=1e-5)
            steps |= {f"conv_ctrl_32, {objective}": ours, f"published, {objective}": theirs}
            pairs.append((f"conv_ctrl_32, {objective}", f"published, {objective}"))
    calls: list[Callable[[], object]] = [partial(step.training_step, batch, 0) for step in steps.values()]
    kept = {name: saved(step, batch) for name, step in steps.items()}
    seconds = dict(zip(steps, timing.interleaved(calls, 3 if chosen.quick else 9, chosen.device), strict=True))
    rows = [timing.row(f"{a} over {b}", seconds[a], seconds[b]) for a, b in pairs]
    for a, b in pairs:
        if not b.startswith("convolutions"):
            facts = {"ours": kept[a], "reference": kept[b], "ratio": kept[a] / kept[b], "unit": "MiB"}
            rows.append({"name": f"kept by {a} over {b}", **facts})
    timing.report(rows, chosen.json, "reference")


if __name__ == "__main__":
    main()
