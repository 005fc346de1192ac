"""Evaluations that differ never write to the same files; the same one does."""

from itertools import combinations

import pytest

from csc_nets.evaluation import report_label
from csc_nets.tasks.evaluation_label import LabelPart, evaluation_label, value_part

CONFIG = {"data": {"name": "photographs", "root": None, "in_chans": 1}, "trainer": {"precision": "bf16-mixed"}}
PLAIN = {"data": {}, "which": "best", "lam": None, "steps": None, "test_views": None, "trainer": {}, "report": None}


def label(report=(), **changes):
    if not report:
        return evaluation_label({**PLAIN, "trainer": CONFIG["trainer"], **changes}, CONFIG)
    name, options = report
    more = report_label(name, changes.pop("images", None), changes.pop("network", None), options)
    return evaluation_label({**PLAIN, "report": name, **changes}, CONFIG, more=more)


def test_what_is_as_in_the_runs_own_test_has_no_label():
    assert label() == label(data={"in_chans": 1, "num_workers": 3, "batch_size": 7}) == ""
    assert label(report=("robustness", {})) == ""
    defaults = {"severities": [1, 3, 5], "seed": 0, "rules": None, "layers": "first"}
    assert label(report=("robustness", defaults), images=1000) == ""


def test_short_and_readable_names():
    assert label(lam=5.0, which="last") == "which=last-lam=5.0"
    assert label(trainer={"precision": "32-true"}) == "precision=32-true"
    assert label(report=("robustness", {"severities": [1, 3]}), images=250) == "images=250-severities=1,3"
    assert label(report=("restoration", {"clean": False})) == "clean=False"
    assert label(data={"name": "mnist", "root": "/data"}) == "data=mnist"  # the same wherever it lies
    found = label(data={"root": "/a/test"})
    assert found.startswith("data=test-") and len(found) == len("data=test-") + 8


def test_a_report_does_not_depend_on_the_trainer_and_may_depend_on_the_batch():
    assert label(report=("theory", {}), trainer={"precision": "64-true"}) == ""
    assert label(report=("theory", {}), data={"eval_batch_size": 7}) == "eval_batch_size=7"


def test_evaluations_that_differ_have_labels_that_differ(tmp_path):
    for name in ("a/b", "c/b"):
        (tmp_path / name).mkdir(parents=True)
    roots = [tmp_path / "a" / "b", tmp_path / "c" / "b"]
    labels = [
        label(),
        *(label(data={"root": str(root)}) for root in roots),
        *(label(data={"name": name, "root": str(roots[0])}) for name in ("photographs", "image_folder")),
        label(data={"name": "image_folder", "root": str(roots[1])}),
        *(label(data={"mean": mean}) for mean in ([0.1, -0.2], [0.1, 0.2], [0.12])),
        *(label(lam=lam) for lam in (1.0, 0.1)),
        *(label(report=("generation", {}), network=str(root)) for root in roots),
        label(report=("generation", {}), network="inception"),
        *(label(report=("restoration", {"noise": noise})) for noise in ([1, 5], [15], [1, 5, 1])),
        *(
            label(report=("robustness", {"corruptions": [name]}))
            for name in ("fog", "jpeg compression", "jpeg-compression")
        ),
        *(label(report=("robustness", {"attack_budget": {"steps": n}})) for n in (1, 2)),
        label(report=("robustness", {"seed": 1})),
        label(report=("robustness", {"rules": [f"rule_{n}" for n in range(40)]})),
        label(report=("robustness", {"rules": [f"rule_{n}" for n in range(41)]})),
        *(evaluation_label(PLAIN, CONFIG, more=[LabelPart("runs", "2", runs)]) for runs in (["a", "b"], ["b", "a"])),
    ]
    for one, other in combinations(labels, 2):
        assert one != other
    assert max(map(len, labels)) < 200


def test_the_same_folder_has_the_same_label(tmp_path, monkeypatch):
    (tmp_path / "mine").mkdir()
    monkeypatch.chdir(tmp_path)
    assert label(data={"root": "mine"}) == label(data={"root": str(tmp_path / "mine")})


@pytest.mark.parametrize(
    ("value", "text", "told"),
    [
        (3, "3", True),
        (-0.5, "-0.5", True),
        (True, "True", True),
        (None, "None", True),
        ("sure", "sure", True),
        ("1", "1", False),
        ("a b", "a-b", False),
        ([1, 2], "1,2", True),
        ({"a": 1}, "a-1", False),
    ],
)
def test_short_forms(value, text, told):
    part = value_part("name", value)
    assert part.text == text and (part.rest is None) == told
