"""``report=robustness`` on tiny runs of the digits, against a direct computation."""

import csv
import json
import statistics
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch
from hydra import compose, initialize_config_dir
from PIL import Image
from program import forked

import csc_nets
import csc_nets.cli as cli
from csc_nets.data import create_datamodule
from csc_nets.evaluation import (
    AdaptiveLam,
    Discrepancy,
    ReportInput,
    batch_statistics,
    corrupt,
    lam_rule,
    list_corruptions,
    list_reports,
    register_report,
    robustness_methods,
    save_report,
)
from csc_nets.evaluation.attacks import Budget, robustness_rows
from csc_nets.layers import SparseCoding
from csc_nets.models import create_model

CONFIGS = str(Path(__file__).parents[3] / "configs")
NOISES = ["gaussian_noise", "impulse_noise"]
FEW = ["report=robustness", "images=60", f"+options.corruptions=[{','.join(NOISES)}]", "+options.severities=[2,5]"]
FEW += ["+options.calibration_images=40", "+options.batch_size=30"]


def config(*overrides, name="evaluate"):
    with initialize_config_dir(CONFIGS):
        return compose(name, overrides=list(overrides))


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Two seeds of a small classifier, and one without coding layers."""
    folder = tmp_path_factory.mktemp("runs")
    short = ["trainer.max_epochs=3", "callbacks.progress_bar=false", "pictures=false"]
    for seed in (0, 1):
        cli.train(config("model.widths=[12,16]", *short, f"seed={seed}", f"run_dir={folder}/csc{seed}", name="train"))
    plain = ["model=invertible_cnn", "model.widths=[6,8]"]
    cli.train(config(*plain, *short, f"run_dir={folder}/plain", name="train"))
    return folder


def written(run, name):
    """The one file of that name among the reports of a run: reports with options have folders of their own."""
    (file,) = (run / "reports").rglob(name)
    return file


@pytest.fixture(scope="module")
def table(runs):
    cli.evaluate(config(f"run={runs}/csc0", *FEW))
    rows = json.loads(written(runs / "csc0", "robustness.json").read_text())
    return {row["name"]: row for row in rows}


def shown(runs, count=60):
    """The test images of the report as pixels, in its order, their labels, and how the network is fed."""
    data = create_datamodule("digits")
    data.keep_split(runs / "csc0" / "split.json", write=False)
    batches = list(ReportInput(torch.nn.Linear(1, 1), data, count, Path(), None).batches("test", count))
    x, y = (torch.cat(parts) for parts in zip(*batches, strict=True))
    order = torch.randperm(len(y), generator=torch.Generator().manual_seed(0))
    pixels = data.denormalize(x)[order]
    return pixels, y[order], lambda pixels: (pixels - data.mean[0]) / data.std[0]


@torch.no_grad()
def accuracy(model, x, labels, context):
    with context:
        answers = torch.cat([model(part).argmax(1) for part in x.chunk(2)])
    return (answers == labels).double().mean().item()


def test_rows_are_those_of_a_direct_computation(runs, table):
    model = csc_nets.load(runs / "csc0").eval()
    pixels, labels, fed = shown(runs)
    assert table["fixed lam"]["clean"] == pytest.approx(accuracy(model, fed(pixels), labels, nullcontext()))
    assert table["fixed lam"]["clean"] > 0.5
    for name in NOISES:
        noisy = {f"{name}/{severity}": fed(corrupt(pixels, name, severity, seed=0)) for severity in (2, 5)}
        contexts = {
            "fixed lam": nullcontext,
            "fixed lam + batch norm": lambda: batch_statistics(model),
            "discrepancy": lambda: lam_rule(model, Discrepancy()),
        }
        for row, context in contexts.items():
            expected = {key: accuracy(model, x, labels, context()) for key, x in noisy.items()}
            assert {key: table[row][key] for key in expected} == pytest.approx(expected)
            assert table[row][name] == pytest.approx(statistics.fmean(expected.values()))
    for row in table.values():
        assert row["noises"] == pytest.approx(statistics.fmean(row[name] for name in NOISES)) and "all" not in row


def test_attacks_know_the_method(runs):
    """What is left is that of a direct attack on network and rule, never above the clean accuracy."""
    budget = "+options.attack_budget={steps: 3, restarts: 1, targets: 0, queries: 0}"
    few = [
        "images=30",
        "+options.rules=[discrepancy]",
        "+options.attacks=[0.05,0.2]",
        "+options.attack_images=12",
        budget,
    ]
    cli.evaluate(config(f"run={runs}/csc1", *FEW[:1], *FEW[2:], *few))
    rows = json.loads(written(runs / "csc1", "robustness.json").read_text())
    left = {row["name"]: [row["linf 0.05"], row["linf 0.2"]] for row in rows if "linf 0.05" in row}
    assert set(left) == {"fixed lam", "discrepancy"}  # neither oracles nor batch norm of the batch
    model = csc_nets.load(runs / "csc1").eval()
    pixels, labels, fed = shown(runs, 30)
    small = Budget(3, 1, 0, 0)
    networks = {"fixed lam": model, "discrepancy": AdaptiveLam(model, "discrepancy")}
    for name, network in networks.items():
        x, y = pixels[:12], labels[:12]
        clean = robustness_rows(lambda x, f=network: f(fed(x)), x, y, [0.0, 0.05, 0.2], budget=small)
        assert left[name] == [row["attacked"] for row in clean[1:]]
        assert clean[0]["attacked"] >= left[name][0] >= left[name][1] < 1
    text = written(runs / "csc1", "robustness.txt").read_text()
    assert "linf 0.05" in text and "strongest attack leaves on the first 12 images" in text


def test_the_oracle_chooses_by_labels_in_each_condition(runs, table):
    """Of one coding layer, whose weight is multiplied."""
    model = csc_nets.load(runs / "csc0").eval()
    pixels, labels, fed = shown(runs)
    layer = model.stages[0][0]
    x, own = fed(corrupt(pixels, "gaussian_noise", 5, seed=0)), layer.lam.clone()
    found = []
    for factor in (1, 2, 4, 8, 16):
        layer.lam = factor * own
        found.append(accuracy(model, x, labels, nullcontext()))
    assert table["oracle, by test labels"]["gaussian_noise/5"] == pytest.approx(max(found))
    conditions = [key for key in table["fixed lam"] if "/" in key]
    for norm in ("", " + batch norm"):
        assert all(table[f"oracle, by test labels{norm}"][k] >= table[f"fixed lam{norm}"][k] for k in conditions)


def test_all_that_is_written(runs, table):
    rules = ["noise level", "noise level, fitted", "discrepancy", "sure", "residual, fitted"]
    plain = ["fixed lam", *rules, "oracle, by test labels"]
    assert sorted(table) == sorted([*plain, *(f"{name} + batch norm" for name in plain)])
    folder = written(runs / "csc0", "robustness.csv").parent
    with (folder / "robustness.csv").open(newline="") as stream:
        found = {row["name"]: row for row in csv.DictReader(stream)}
    assert float(found["sure"]["impulse_noise/2"]) == table["sure"]["impulse_noise/2"]
    assert found["sure"]["seed"] == "0" and found["sure"]["network"] == "csc_small"
    text = (folder / "robustness.txt").read_text()
    assert "csc0 (csc_small), 60 test images of digits" in text
    assert f"{100 * table['sure']['noises']:.1f}" in text and "| discrepancy + batch norm" in text
    assert Image.open(folder / "robustness.png").size[0] > 500
    assert Image.open(folder / "robustness_images.png").size[1] > 500  # three images, each with two codes


def test_runs_side_by_side(runs, table, capsys):
    few = [option for option in FEW if "calibration" not in option]
    choice = ["+options.calibration_images=0", "+options.rules=[discrepancy]"]
    cli.evaluate(config(f"run=[{runs}/csc0,{runs}/plain,{runs}/csc1]", *few, *choice))
    out = capsys.readouterr().out
    folder = written(runs / "csc0", "robustness_of_runs.json").parent
    rows = json.loads((folder / "robustness_of_runs.json").read_text())
    numbers = {(row["run"], row["name"]): row["noises"] for row in rows}
    assert [name for run, name in numbers if run == "plain"] == ["as trained", "as trained + batch norm"]
    assert numbers["csc0", "discrepancy"] == table["discrepancy"]["noises"]
    both = [100 * numbers[f"csc{seed}", "discrepancy"] for seed in (0, 1)]
    assert f"{statistics.fmean(both):.1f} ± {statistics.stdev(both):.1f}" in out
    assert "csc_small, mean of 2 seeds (csc0, csc1)" in out and "plain (invertible_cnn)" in out
    for suffix in ("csv", "txt", "png"):
        assert (folder / f"robustness_of_runs.{suffix}").is_file()


def test_a_denoiser_in_front_sees_each_channel(runs, tmp_path):
    model, data = csc_nets.load(runs / "csc0").eval(), create_datamodule("digits")
    options = {"corruptions": ["gaussian_noise"], "severities": [5], "rules": [], "denoiser": "cdlnet"}
    save_report("robustness", model, data, tmp_path, images=20, options={**options, "calibration_images": 0})
    rows = {row["name"]: row for row in json.loads((tmp_path / "robustness.json").read_text())}
    given = ReportInput(model, data, 20, Path(), None)
    x, y = (torch.cat(parts) for parts in zip(*given.batches("test", 20), strict=True))
    order = torch.randperm(len(y), generator=torch.Generator().manual_seed(0))
    noisy, y = corrupt(data.denormalize(x)[order], "gaussian_noise", 5), y[order]
    with torch.no_grad():
        clean = create_model("cdlnet", pretrained=True).eval()(noisy).clamp(0, 1)
        right = (model((clean - data.mean[0]) / data.std[0]).argmax(1) == y).double().mean().item()
    assert rows["denoiser in front"]["gaussian_noise/5"] == pytest.approx(right)


def test_wrong_options_are_refused_in_one_line(runs):
    def refused(*options):
        with pytest.raises(ValueError) as error:
            cli.evaluate(config(f"run={runs}/csc0", *FEW[:2], *options))
        return str(error.value)

    expected = {
        "severitys=[1]": "unknown option options.severitys of report robustness; did you mean severities?",
        "severities=3": "options.severities must be a list of whole numbers such as [1,3,5], got 3",
        "severities=[]": "severities must be at least one",
        "corruptions=[gausian_noise]": "did you mean gaussian_noise",
        "batch_size=0": "batch_size must be an int >= 1, got 0",
        "layers=last": "options.layers must be one of first, all, got 'last'",
    }
    for option, message in expected.items():
        assert message in refused(f"+options.{option}")
    with pytest.raises(ValueError, match=r"unknown option options\.images of report theory; it takes none"):
        save_report("theory", csc_nets.load(runs / "csc0"), create_datamodule("digits"), runs, options={"images": 3})


def test_a_report_from_outside_says_how_many_images_it_takes_and_compares_runs(runs):
    process = forked(_adds_a_report, runs)  # which no other test then finds
    process.join()
    assert process.exitcode == 0
    assert json.loads((runs / "csc0" / "reports" / "times=3" / "counted.json").read_text())[0]["value"] == 15
    assert (runs / "compared").read_text() == "2 runs, 2 times"


def _adds_a_report(runs):
    def compare(inputs, *, times=1):
        (runs / "compared").write_text(f"{len(inputs)} runs, {times} times")
        return ""

    @register_report(name="counted", images=5, compare=compare)
    def counted(given, *, times: int = 1):
        return f"{given.images} images", [{"name": "images", "value": given.images * times}]

    assert "counted" in list_reports()
    cli.evaluate(config(f"run={runs}/csc0", "report=counted", "+options.times=3"))
    cli.evaluate(config(f"run=[{runs}/csc0,{runs}/csc1]", "report=counted", "+options.times=2"))


def test_networks_that_are_no_classifier_are_refused(tmp_path):
    network = create_model("csc_autoencoder", in_chans=1, widths=[4]).eval()
    with pytest.raises(ValueError, match="needs a classifier of 10 classes, got outputs of shape"):
        save_report("robustness", network, create_datamodule("digits"), tmp_path, images=4)


def test_rows_of_a_network_say_what_it_can_do():
    torch.manual_seed(0)
    csc = create_model("csc_small", in_chans=1, widths=[4]).eval()
    names = [method.name for method in robustness_methods(csc, ["sure"])]
    assert names[:2] == ["fixed lam", "sure"] and "residual, fitted" not in names
    tokens = torch.nn.Sequential(SparseCoding(4, 8), torch.nn.BatchNorm1d(8)).eval()  # no images for a rule to look at
    assert [method.name for method in robustness_methods(tokens, ["sure"])] == ["as trained", "as trained + batch norm"]
    bare = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(4, 2))
    assert [method.name for method in robustness_methods(bare, ["sure"])] == ["as trained"]


def test_the_benchmark_is_its_fifteen_corruptions(tmp_path):
    torch.manual_seed(0)
    bare = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 10)).eval()
    options = {"corruptions": ["benchmark"], "severities": [1], "calibration_images": 0}
    text = save_report("robustness", bare, create_datamodule("digits"), tmp_path, images=10, options=options)
    (row,) = json.loads((tmp_path / "robustness.json").read_text())
    names = list_corruptions()[:15]
    assert row["all"] == pytest.approx(statistics.fmean(row[name] for name in names)) and "oracle" not in text
    assert row["noises"] == pytest.approx(statistics.fmean(row[name] for name in names[:3]))
