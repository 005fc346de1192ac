import json
from pathlib import Path

import pytest
import torch
from hydra import compose, initialize_config_dir
from PIL import Image

from csc_nets.cli import train
from csc_nets.data import TensorDataModule, create_datamodule
from csc_nets.evaluation import feature_space, list_reports, register_report, reports, save_report
from csc_nets.evaluation.report_input import ReportInput
from csc_nets.models import create_model
from csc_nets.registry import Registry


@pytest.fixture(scope="module")
def data():
    return create_datamodule("digits")


@pytest.mark.parametrize("model", ["csc_small", "invertible_cnn"])
@pytest.mark.parametrize("name", ["theory", "energy", "inversion", "features"])
def test_text_numbers_and_picture(name, model, data, tmp_path):
    torch.manual_seed(0)
    network = create_model(model, in_chans=1, widths=[6, 8]).eval()
    text, rows = saved(name, network, data, tmp_path, **({} if name == "features" else {"images": 3}))
    assert len(rows) >= 2 and all(row["name"] in text for row in rows)
    picture = tmp_path / "reports" / f"{name}.png"
    assert picture.exists() == (name != "theory")
    if name == "inversion":  # three images, each with what came back of two layers in three ways
        assert Image.open(picture).size == (7 * 68 + 4, 3 * 68 + 4)
    if name == "features":  # even random filters tell digits apart better than chance
        assert all(0.2 < row["value"] <= 1 for row in rows[:3]) and 1 <= rows[3]["value"] <= 8
        values = {row["name"]: row["value"] for row in rows}
        assert 0 < values["cosine between"] < values["cosine within"] < 1


@pytest.fixture(scope="module")
def loop():
    torch.manual_seed(0)
    return create_model("csc_ctrl_32", in_chans=1, input_size=8, widths=[6], features=8).eval()


@pytest.fixture(scope="module")
def classifier(tmp_path_factory):
    """A run folder of a network that was hardly trained."""
    folder = tmp_path_factory.mktemp("runs") / "classifier"
    with initialize_config_dir(str(Path(__file__).parents[2] / "configs")):
        small = ["model.widths=[6,8]", "trainer.max_epochs=1", "callbacks.progress_bar=false", "pictures=false"]
        train(compose("train", overrides=[*small, f"run_dir={folder}"]))
    return folder


@pytest.mark.parametrize("name", ["reconstruction", "noise", "classes", "generation"])
def test_reports_on_a_closed_loop(name, loop, data, classifier, tmp_path):
    taken = {"reconstruction": {"images": 3}, "generation": {"network": classifier}}.get(name, {})
    text, rows = saved(name, loop, data, tmp_path, **taken)
    picture = Image.open(tmp_path / "reports" / f"{name}.png").size
    assert all(row["name"] in text for row in rows)
    values = {row["name"]: row for row in rows}
    if name == "reconstruction":
        assert picture == (3 * 68 + 4, 2 * 68 + 4)
        assert values["PSNR"]["worst"] < values["PSNR"]["value"] < values["PSNR of the mean training image"]["value"]
        assert 0 < values["density of stages.0.0"]["value"] < 1
    if name == "noise":  # six levels of noise, five sparsity weights beside the input
        assert len(rows) == 30 and picture == (6 * 68 + 4, 6 * 68 + 4)
        assert (
            rows[0]["noisy_psnr"] is None
            and 27 < rows[5]["noisy_psnr"] < 30
            and rows[0]["density"] > rows[4]["density"]
        )
    if name == "classes":
        assert len(rows) == 10 and picture == (13 * 68 + 4, 10 * 68 + 4) and all(0 < row["share"] <= 1 for row in rows)
    if name == "generation":
        assert picture == (8 * 68 + 4, 10 * 68 + 4) and "csc_small trained on digits" in text
        fid = {label: row["fid"] for label, row in values.items()}
        assert fid["training images"] < min(fid["reconstructions"], fid["draws"]) / 5


def few(count):
    """Digits with only so many test images."""
    whole = create_datamodule("digits", crop_padding=0)
    parts = {name: whole.split(name) for name in ("train", "val", "test")}
    test = tuple(part[:count] for part in parts["test"])
    facts = {"class_names": whole.class_names, "mean": whole.mean, "std": whole.std, "name": "few"}
    return TensorDataModule(*parts["train"], val=tuple(parts["val"]), test=test, **facts)


@pytest.mark.parametrize("count", [7, 75])
def test_any_number_of_test_images_will_do(count, loop, classifier, tmp_path):
    for name in ("reconstruction", "noise", "classes", "generation"):
        text, rows = saved(
            name, loop, few(count), tmp_path, **({"network": classifier} if name == "generation" else {})
        )
    assert rows[1]["images"] == rows[2]["images"] == count and f"{count} test images" in text


def test_images_are_spread_over_a_split_that_is_too_large(loop, data, tmp_path):
    given = ReportInput(loop, data, 8, tmp_path / "picture.png", None)
    every = torch.cat([labels for _, labels in given.batches("test")])
    assert torch.equal(torch.cat([labels for _, labels in given.batches("test", 100)]), every[::4])  # of 359
    assert len(every) == 359


def test_images_that_the_judge_does_not_know_are_refused(classifier):
    with pytest.raises(ValueError, match=r"was trained on images \(1, 8, 8\), got \(1, 28, 28\)"):
        feature_space(classifier).features([torch.zeros(2, 1, 28, 28)])


def test_what_a_report_cannot_be_on_is_refused(loop, data, classifier, tmp_path):
    network = create_model("csc_small", in_chans=1)
    with pytest.raises(ValueError, match="images come back from an autoencoder, got CSCSmall"):
        save_report("reconstruction", network, data, tmp_path)
    for name in ("classes", "generation"):
        with pytest.raises(
            ValueError, match=r"this report is on closed loops \(csc_ctrl_\*, conv_ctrl_\*\), got CSCSmall"
        ):
            save_report(name, network, data, tmp_path)
    with pytest.raises(ValueError, match="report=generation needs network=RUN"):
        save_report("generation", loop, data, tmp_path)


def test_bad_arguments_are_refused(data, tmp_path):
    model = create_model("csc_small", in_chans=1)
    known = (
        "activations, classes, coding, energy, features, generation, inpainting, inversion, noise, page, "
        "rate_distortion, reconstruction, restoration, robustness, theory"
    )
    with pytest.raises(ValueError, match=f"unknown report 'noises'; did you mean noise.* known: {known}$"):
        save_report("noises", model, data, tmp_path)
    with pytest.raises(ValueError, match="images must be an int >= 1, got 0"):
        save_report("energy", model, data, tmp_path, images=0)
    assert known.split(", ") == list_reports()
    for name in ("features", "noise", "classes", "generation"):
        with pytest.raises(ValueError, match=f"report={name} takes no number of images, got images=3"):
            save_report(name, model, data, tmp_path, images=3)
    with pytest.raises(ValueError, match="network is for report=generation; report=theory takes none, got network=a"):
        save_report("theory", model, data, tmp_path, network="a")


def saved(name, model, data, tmp_path, **options):
    """The report's text, as it was written, and its rows."""
    text = save_report(name, model, data, tmp_path / "reports", **options)
    assert (tmp_path / "reports" / f"{name}.txt").read_text() == text + "\n"
    return text, json.loads((tmp_path / "reports" / f"{name}.json").read_text(), parse_constant=pytest.fail)


def test_a_report_that_fails_leaves_nothing(data, tmp_path, monkeypatch):
    monkeypatch.setattr(reports, "_REPORTS", Registry("report"))  # which no other test then finds

    @register_report(name="failing")
    def failing(given, *, late=False):
        given.picture.with_suffix(".csv").write_text("half")
        given.picture.with_name("more").mkdir()
        if late:
            raise ValueError("too late")
        return f"in {given.picture.parent}", [{"name": "all", "value": 1}]

    model, folder = create_model("csc_small", in_chans=1), tmp_path / "run" / "reports"
    with pytest.raises(ValueError, match="too late"):
        save_report("failing", model, data, folder, options={"late": True})
    assert not list(tmp_path.iterdir())
    assert save_report("failing", model, data, folder) == f"in {folder}" == (folder / "failing.txt").read_text()[:-1]
    before = {path: path.stat().st_mtime_ns for path in folder.iterdir()}
    assert {path.name for path in before} == {"failing.txt", "failing.json", "failing.csv", "more"}
    with pytest.raises(ValueError, match="too late"):
        save_report("failing", model, data, folder, options={"late": True})
    assert {path: path.stat().st_mtime_ns for path in folder.iterdir()} == before
