import pytest
from torch import nn

from csc_nets.tasks import AutoencodingTask, Task, create_task, list_tasks, register_task
from csc_nets.tasks import registry as registry_module
from csc_nets.tasks.registry import accepts


def test_names():
    ours = [
        "activations",
        "autoencoding",
        "classification",
        "denoising",
        "dictionary_learning",
        "sparse_autoencoding",
        "transcription",
    ]
    assert list_tasks() == ours


def test_an_unknown_name_comes_with_the_nearest_one():
    with pytest.raises(
        ValueError,
        match=r"^create_task: unknown task 'autoencode'; did you mean autoencoding or sparse_autoencoding\? known: ",
    ):
        create_task("autoencode", nn.Linear(1, 1))


def test_only_tasks_are_registered():
    with pytest.raises(
        ValueError, match=r"^register_task: expected a subclass of csc_nets.tasks.Task, got <class .*Linear"
    ):
        register_task(nn.Linear)


def test_arguments_are_looked_for_in_the_classes_that_they_reach(monkeypatch):
    monkeypatch.setattr(registry_module.TASKS, "_entries", dict(registry_module.TASKS._entries))

    @register_task
    class Extended(AutoencodingTask):
        def __init__(self, model, *, weight=1.0, **common):
            super().__init__(model, **common)

    @register_task
    class Closed(AutoencodingTask):
        def __init__(self, model, *, lr=0.1):
            super().__init__(model, lr=lr)

    @register_task(name="plain_task")
    class Plain(Task):
        monitor, monitor_mode = "val/acc", "max"

    assert accepts("Extended", "mean") and accepts("Extended", "weight") and accepts("Extended", "seed")
    assert not accepts("Closed", "mean") and accepts("Closed", "lr")
    assert not accepts("plain_task", "mean") and accepts("plain_task", "seed")
    assert not accepts("classification", "mean") and accepts("transcription", "std")
