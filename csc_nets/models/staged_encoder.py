"""What every network of the zoo has in common: a chain of stages whose outputs can be read."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from csc_nets.layers import Coder, Scattering2d
from csc_nets.models.checkpointing import checkpoint_stage
from csc_nets.models.hub import HubNetwork
from csc_nets.models.least_side import naming_least_side
from csc_nets.models.outline import outline
from csc_nets.models.shelf import card

__all__ = ["FeatureExtractor", "FeatureInfo", "StagedEncoder"]


class FeatureInfo(list[dict[str, Any]]):
    """What each feature map is: a list of ``num_chs``, ``reduction`` and ``module``, with timm's columns of it.

    Every method takes the place of one map, a list of places, or None for all.
    """

    def get(self, key: str, idx: int | Sequence[int] | None = None) -> Any:
        """One column."""
        return self[idx][key] if isinstance(idx, int) else [self[i][key] for i in self._places(idx)]

    def get_dicts(self, keys: Sequence[str] | None = None, idx: int | Sequence[int] | None = None) -> Any:
        """Some columns, or all, as dicts."""
        rows = [{key: self[i][key] for key in keys or self[i]} for i in self._places(idx)]
        return rows[0] if isinstance(idx, int) else rows

    def channels(self, idx: int | Sequence[int] | None = None) -> Any:
        """Channels of each map."""
        return self.get("num_chs", idx)

    def reduction(self, idx: int | Sequence[int] | None = None) -> Any:
        """Pixels of the image per position of each map."""
        return self.get("reduction", idx)

    def module_name(self, idx: int | Sequence[int] | None = None) -> Any:
        """Name of the module that makes each map."""
        return self.get("module", idx)

    def _places(self, idx: int | Sequence[int] | None) -> Sequence[int]:
        if idx is None:
            return range(len(self))
        return [idx] if isinstance(idx, int) else idx


class StagedEncoder(HubNetwork):
    """A chain of stages from images ``(N, in_chans, H, W)`` to features ``(N, num_features, H', W')``.

    Follows timm's API where it applies. ``create_model`` records ``model_name`` and ``model_args`` (plain values) on
    the instance, so that ``create_model(model.model_name, **model.model_args)`` builds the same network again.

    Args:
        stages: modules that run one after the other.
        channels: output channels of each stage.
        reductions: how many pixels of the image one position of each stage's output steps over, per axis.
        in_chans: channels of the image.
        input_size: height and width the network was designed for, in pixels; every other size runs too.

    Attributes:
        feature_info: for each stage ``num_chs``, ``reduction`` and ``module`` (its name in the network).
        num_features: channels of the last stage.
        patch_size: side in pixels of the patches whose tokens ``(N, 1 + h * w, C)`` the stages return, a class token
            first; None where they return maps. Intermediates are maps of the patches in both.
        trained_on: what :func:`csc_nets.load` knows of the images of a run, in timm's words: ``mean``, ``std``,
            ``input_size``, ``interpolation``, ``crop_pct``.
    """

    model_name: str = ""
    model_args: dict[str, Any]
    pretrained_url: str | None = None
    patch_size: int | None = None
    trained_on: dict[str, Any]

    def __init__(
        self,
        stages: Sequence[nn.Module],
        channels: Sequence[int],
        reductions: Sequence[int],
        *,
        in_chans: int,
        input_size: int,
    ) -> None:
        super().__init__()
        if in_chans < 1:
            raise ValueError(f"in_chans must be at least 1, got {in_chans}")
        self.stages = nn.ModuleList(stages)
        self.feature_info = FeatureInfo(
            {"num_chs": width, "reduction": reduction, "module": f"stages.{i}", "index": i}
            for i, (width, reduction) in enumerate(zip(channels, reductions, strict=True))
        )
        self.num_features = channels[-1]
        self.in_chans = in_chans
        self.input_size = input_size
        self.grad_checkpointing = False
        self.model_args, self.trained_on = {}, {}

    def __repr__(self) -> str:
        """The modules, as deep as a screen allows."""
        return outline(self)

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Trades time for memory: the backward pass recomputes each stage instead of keeping its activations."""
        self.grad_checkpointing = enable

    def set_lam(self, lam: float) -> None:
        """Sets the sparsity weight of every coded layer; it takes effect in the next forward pass.

        Raises:
            ValueError: ``lam`` is negative or not finite, or 0 where it is learned.
        """
        for module in self.modules():
            if isinstance(module, Coder) and hasattr(module, "lam"):
                module.lam = lam  # type: ignore[assignment]

    def adapted(self, state: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """The state dict of this network that a given one means; some networks read those of others."""
        return state

    def forward_features(self, x: Tensor) -> Tensor:
        """Features ``(N, num_features, H', W')`` of images ``(N, in_chans, H, W)``."""
        return self._run(x, len(self.stages), ())[0]

    def forward_intermediates(
        self,
        x: Tensor,
        indices: int | Sequence[int] | None = None,
        norm: bool = False,
        stop_early: bool = False,
        output_fmt: str = "NCHW",
        intermediates_only: bool = False,
    ) -> Any:
        """Outputs of chosen stages.

        Args:
            x: images ``(N, in_chans, H, W)``.
            indices: stages, negative ones counted from the end; an int means that many last ones, None all.
            norm: as in timm, the final norm on every output; these networks have none, so it does not count.
            stop_early: end with the last chosen stage; its output are the features then.
            output_fmt: ``"NCHW"``, or ``"NHWC"`` for outputs with the channels last; the features stay as they are.
            intermediates_only: leave out the features, and the stages after the last chosen one.

        Returns:
            ``(features, intermediates)``, or the list of intermediates alone, in the order of the stages.

        Raises:
            ValueError: there is no such stage, or another format.
        """
        if output_fmt not in ("NCHW", "NHWC"):
            raise ValueError(f"output_fmt must be 'NCHW' or 'NHWC', got {output_fmt!r}")
        chosen = stage_indices(indices, len(self.stages))
        depth = chosen[-1] + 1 if intermediates_only or stop_early else len(self.stages)
        features, intermediates = self._run(x, depth, chosen)
        if output_fmt == "NHWC":
            intermediates = [output.permute(0, 2, 3, 1) for output in intermediates]
        return intermediates if intermediates_only else (features, intermediates)

    def no_weight_decay(self) -> set[str]:
        """Names of the parameters that weight decay must leave alone.

        These are the dictionaries (the norm of the tensor behind an atom changes no code), norm layers, biases and
        learned sparsity weights.
        """
        return {name for name, p in self.named_parameters() if p.ndim <= 1 or ".parametrizations." in name}

    @property
    def pretrained_cfg(self) -> dict[str, Any]:
        """What one must know to use weights of this network, in timm's words; None for what there is none of."""
        return {
            "architecture": self.model_name,
            "url": self.pretrained_url,
            "input_size": (self.in_chans, self.input_size, self.input_size),
            "first_conv": next((name for name, m in self.named_modules() if _takes_images(m)), None),
            **(self.trained_on or self._card()),
        }

    def _card(self) -> dict[str, Any]:
        """The card of the weights in the package, where they are of a network that was built as this one."""
        known = card(self.model_name)
        alike = all(self.model_args.get(key) == value for key, value in known.get("model_args", {}).items())
        return known if alike else {}

    @property
    def default_cfg(self) -> dict[str, Any]:
        """timm's older name of :attr:`pretrained_cfg`."""
        return self.pretrained_cfg

    def _run(self, x: Tensor, depth: int, kept: Sequence[int]) -> tuple[Tensor, list[Tensor]]:
        """Output of the first ``depth`` stages, and those of the stages ``kept``."""
        if isinstance(x, Tensor) and (x.ndim != 4 or x.shape[1] != self.in_chans):  # torch.fx has no sizes
            name = self.model_name or type(self).__name__
            raise ValueError(f"{name}: expected images (N, {self.in_chans}, H, W), got {tuple(x.shape)}")
        if not isinstance(x, Tensor) or torch.compiler.is_compiling():
            return self._chain(x, depth, kept)
        with naming_least_side(self, x, lambda images: self._chain(images, depth, ()), self.input_size):
            return self._chain(x, depth, kept)

    def _chain(self, x: Tensor, depth: int, kept: Sequence[int]) -> tuple[Tensor, list[Tensor]]:
        image = x
        outputs: list[Tensor] = []
        recompute = self.grad_checkpointing and torch.is_grad_enabled()
        for i, stage in enumerate(self.stages):
            if i == depth:
                break
            x = checkpoint_stage(stage, x) if recompute else stage(x)
            if i in kept:
                outputs.append(x if self.patch_size is None else _as_map(x, image, self.patch_size))
        return x, outputs


class FeatureExtractor(StagedEncoder):
    """The first stages of a network, returning the outputs of chosen ones; what ``features_only=True`` builds.

    Stages keep their names, so the state dict is a part of the whole network's.

    Args:
        model: the network to take over; its later stages and head are dropped.
        out_indices: stages to return, as in :meth:`StagedEncoder.forward_intermediates`.

    Shape:
        - input ``(N, in_chans, H, W)``
        - output: a list of ``(N, num_chs, H / reduction, W / reduction)``, one for each entry of ``feature_info``
    """

    def __init__(self, model: StagedEncoder, out_indices: int | Sequence[int] | None = None) -> None:
        chosen = stage_indices(out_indices, len(model.stages))
        kept = FeatureInfo(model.feature_info[: chosen[-1] + 1])
        super().__init__(
            list(model.stages)[: len(kept)],
            kept.channels(),
            kept.reduction(),
            in_chans=model.in_chans,
            input_size=model.input_size,
        )
        self.out_indices, self.patch_size = chosen, model.patch_size
        self.feature_info = FeatureInfo(kept[i] for i in chosen)

    def forward(self, x: Tensor) -> list[Tensor]:
        """Feature maps of the chosen stages."""
        outputs: list[Tensor] = self.forward_intermediates(x, self.out_indices, intermediates_only=True)
        return outputs


def stage_indices(indices: int | Sequence[int] | None, count: int) -> list[int]:
    """Sorted stage numbers that ``indices`` names among ``count`` stages.

    Raises:
        ValueError: there is no such stage, or none is named.
    """
    if indices is None:
        return list(range(count))
    named = range(count - indices, count) if isinstance(indices, int) else [i + count * (i < 0) for i in indices]
    chosen = sorted(set(named))
    if not chosen or chosen[0] < 0 or chosen[-1] >= count:
        raise ValueError(f"indices must name some of the {count} stages, got {indices!r}")
    return chosen


def _as_map(tokens: Tensor, image: Tensor, patch_size: int) -> Tensor:
    """The tokens of the patches of an image as a map ``(N, C, h, w)``, without the class token."""
    grid = -(-image.shape[2] // patch_size), -(-image.shape[3] // patch_size)
    found: Tensor = tokens[:, 1:].transpose(1, 2).unflatten(2, grid)
    return found


def _takes_images(module: nn.Module) -> bool:
    """Whether a module correlates images with filters."""
    return isinstance(module, nn.Conv2d | Scattering2d | Coder)
