"""Accuracies of methods under corruptions."""

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn

from csc_nets.evaluation.corruptions import corrupt
from csc_nets.evaluation.robustness.methods import WITH_NORM, Method

__all__ = ["CLEAN", "Accuracies", "accuracies", "as_row", "with_oracles"]

CLEAN = "clean"
Accuracies = dict[str, dict[str, float]]
"""By method, then by ``"clean"`` or ``"CORRUPTION/SEVERITY"``."""


@torch.no_grad()
def accuracies(
    model: nn.Module,
    methods: Sequence[Method],
    pixels: Tensor,
    labels: Tensor,
    normalize: Callable[[Tensor], Tensor],
    *,
    corruptions: Sequence[str],
    severities: Sequence[int],
    batch_size: int = 250,
    seed: int = 0,
) -> Accuracies:
    """Share of right answers of each method, clean and for each corruption and severity.

    Args:
        model: a classifier, in evaluation mode.
        methods: see :func:`~csc_nets.evaluation.robustness.robustness_methods`.
        pixels: ``(N, C, H, W)`` in [0, 1], in an order without classes: batch norm may look at a whole batch.
        labels: ``(N,)``.
        normalize: from pixels to the network's input.
        corruptions, severities: see :func:`~csc_nets.evaluation.corrupt`.
        batch_size: all batches have about so many images.
        seed: of the corruptions.
    """
    conditions = [(name, severity) for name in corruptions for severity in severities]
    found: Accuracies = {method.name: {} for method in methods}
    parts = max(1, round(len(pixels) / batch_size))
    for condition in [None, *conditions]:
        key = CLEAN if condition is None else f"{condition[0]}/{condition[1]}"
        images = pixels if condition is None else corrupt(pixels, condition[0], condition[1], seed=seed)
        right = {method.name: 0 for method in methods}
        for batch, truth in zip(images.chunk(parts), labels.chunk(parts), strict=True):
            # Methods with the same rule follow each other, so that it looks at the batch once.
            for method in sorted(methods, key=lambda method: method.name.removesuffix(WITH_NORM)):
                shown = batch if method.before is None else method.before(batch)
                with method.around():
                    right[method.name] += int((model(normalize(shown)).argmax(1) == truth).sum())
        for name, count in right.items():
            found[name][key] = count / len(labels)
    return found


def with_oracles(found: Accuracies, methods: Sequence[Method]) -> Accuracies:
    """The rows of the table: an oracle stands for its candidates, with the best of them in each condition.

    It chooses by the labels of the test images, so it bounds what one lam for all images can reach; no rule may do so.
    The trained lam is among its choices.
    """
    rows: Accuracies = {}
    for method in methods:
        if not method.candidate_of:
            rows[method.name] = dict(found[method.name])
    for oracle in dict.fromkeys(method.candidate_of for method in methods if method.candidate_of):
        own = f"fixed lam{WITH_NORM}" if oracle.endswith(WITH_NORM) else "fixed lam"
        chosen = [own, *(method.name for method in methods if method.candidate_of == oracle)]
        rows[oracle] = {key: max(found[name][key] for name in chosen) for key in found[own]}
    return rows


def as_row(values: Mapping[str, float]) -> dict[str, float]:
    """The columns of the table: clean, the mean of each corruption over severities, of noises, of all corruptions."""
    corruptions = list(dict.fromkeys(key.partition("/")[0] for key in values if key != CLEAN))
    row = {CLEAN: values[CLEAN]}
    for name in corruptions:
        row[name] = _mean([value for key, value in values.items() if key.startswith(f"{name}/")])
    noises = [row[name] for name in corruptions if name.endswith("_noise")]
    if noises:
        row["noises"] = _mean(noises)
    if len(noises) < len(corruptions):
        row["all"] = _mean([row[name] for name in corruptions])
    return row


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
