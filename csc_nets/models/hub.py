"""Networks with their weights in a folder, or at the Hugging Face hub: a state dict, how it was built, and a card."""

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor, nn

from csc_nets.layers.dictionary import Dictionary

__all__ = ["CONFIG", "SOURCES", "WEIGHTS", "HubNetwork", "hub_files", "packed"]

CONFIG, WEIGHTS = "config.json", "model.safetensors"

SOURCES: dict[str, Callable[..., Any]] = {}
"""What builds the network of a place, by the name of its source; ``csc_nets.models.shared_networks`` fills it."""

_CARD = """---
library_name: csc_nets
license: {license}
tags: [csc_nets, sparse-coding]
---
# {name}

```python
model = csc_nets.create_model("hf-hub:THIS/REPOSITORY", pretrained=True)
```

{rows}
"""


class HubNetwork(nn.Module):
    """A network that :func:`~csc_nets.models.create_model` built, with the methods of the hub's libraries."""

    model_name: str
    model_args: dict[str, Any]

    @property
    def pretrained_cfg(self) -> dict[str, Any]:
        """What is known of its weights."""
        raise NotImplementedError

    def save_pretrained(self, save_directory: str | Path, *, half: bool = False) -> None:
        """Writes ``model.safetensors``, ``config.json`` and a card, ``README.md``, which stays where there is one.

        ``create_model("local-dir:FOLDER", pretrained=True)`` reads them.

        Args:
            save_directory: the folder; it is made.
            half: parameters in half precision, half the size.

        Raises:
            ValueError: the network was not built by its name, is only a part of one, or does not fit half precision.
        """
        if not self.model_name or "features_only" in self.model_args:
            raise ValueError(f"save_pretrained: only a whole network of create_model, got {type(self).__name__}")
        from safetensors.torch import save_file  # of the extra "hub"

        folder = Path(save_directory)
        state = packed(self, half)
        folder.mkdir(parents=True, exist_ok=True)
        save_file(state, folder / WEIGHTS)
        known = self.pretrained_cfg
        config = {"architecture": self.model_name, "model_args": self.model_args, "pretrained_cfg": known}
        (folder / CONFIG).write_text(json.dumps(config, indent=2) + "\n")
        if not (folder / "README.md").exists():
            rows = "\n".join(f"- {key}: {value}" for key, value in known.items() if value is not None)
            text = _CARD.format(name=self.model_name, license=str(known.get("license", "mit")).lower(), rows=rows)
            (folder / "README.md").write_text(text)

    def push_to_hub(self, repo_id: str, **options: Any) -> str:
        """Uploads what :meth:`save_pretrained` writes, by ``huggingface_hub.PyTorchModelHubMixin``.

        Args:
            repo_id: ``"owner/name"``; it is made.
            **options: of the mixin's method: ``commit_message``, ``private``, ``token``, ``branch``, ...

        Returns:
            The address of the commit.

        Raises:
            ImportError: huggingface_hub is not installed.
        """
        from huggingface_hub import PyTorchModelHubMixin

        class Upload(PyTorchModelHubMixin):
            def save_pretrained(upload, save_directory: Any, **_: Any) -> None:
                self.save_pretrained(save_directory)

        return str(Upload().push_to_hub(repo_id, **options))

    @classmethod
    def from_pretrained(cls, source: str | Path, *, revision: str | None = None, **overrides: Any) -> Self:
        """The network of a folder, or of a repository at the hub, in evaluation mode.

        Args:
            source: a folder that exists, or ``"owner/name"``.
            revision: branch, tag or commit at the hub.
            **overrides: of :func:`~csc_nets.models.create_model`.

        Raises:
            ValueError: it is another kind of network than this class, or its files are refused.
        """
        if Path(source).is_dir():
            kind, place = "local-dir", str(source)
        else:
            kind, place = "hf-hub", f"{source}@{revision}" if revision else str(source)
        model = SOURCES[kind](place, pretrained=True, **overrides)
        if not isinstance(model, cls):
            raise ValueError(f"from_pretrained: {source} holds a {type(model).__name__}, expected a {cls.__name__}")
        return model.eval()


def packed(model: nn.Module, half: bool) -> dict[str, Tensor]:
    """The state dict on the CPU, each tensor with memory of its own.

    Args:
        model: any network.
        half: parameters in half precision. The bounds of dictionaries are then those of the rounded atoms.

    Raises:
        ValueError: a parameter is beyond the range of half precision.
    """
    rounded: set[str] = set()
    if half:
        model = copy.deepcopy(model)
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                rounded.add(name)
                parameter.copy_(parameter.half())
                if not parameter.isfinite().all():
                    raise ValueError(f"{name} is beyond the range of half precision")
        for module in model.modules():
            if isinstance(module, Dictionary):
                module.refresh()
    state = {name: value.detach().cpu().contiguous().clone() for name, value in model.state_dict().items()}
    return {name: value.half() if name in rounded else value for name, value in state.items()}


def hub_files(repository: str) -> tuple[Path, Path]:
    """The config and the weights of ``"owner/name"`` or ``"owner/name@revision"``, fetched into the hub's cache.

    Raises:
        ImportError: huggingface_hub is not installed.
    """
    try:
        from huggingface_hub import hf_hub_download
    except ImportError as error:
        raise ImportError("hf-hub: needs huggingface_hub: pip install csc-nets[hub]") from error
    name, _, revision = repository.partition("@")
    config, weights = (Path(hf_hub_download(name, file, revision=revision or None)) for file in (CONFIG, WEIGHTS))
    return config, weights
