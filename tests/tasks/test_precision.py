"""Every task trains and tests in every precision of the trainer, and the numbers agree."""

import pytest
from program import call, config

import csc_nets.cli as cli

QUIET = ["callbacks.progress_bar=false", "pictures=false", "trainer.max_epochs=1", "trainer.limit_train_batches=3"]
TASKS = {
    "classification": (["model.widths=[4,8]", "model.steps=2"], "test/reconstruction_error"),
    "autoencoding": (["experiment=digits_csc_autoencoder", "model.widths=[4]"], "test/reconstruction_error"),
    "dictionary_learning": (
        ["experiment=sample_images_dictionary", "data=digits", "model.widths=[8]", "model.kernel_size=3"],
        "test/objective",
    ),
    "transcription": (
        ["experiment=digits_csc_ctrl", "model.widths=[4]", "model.features=8", "data.batch_size=100"],
        "test/psnr",
    ),
}


@pytest.mark.parametrize("task", ["classification", "autoencoding", "dictionary_learning", "transcription"])
def test_precisions(tmp_path, task):
    options, number = TASKS[task]
    results = {}
    for precision in ("32-true", "64-true", "bf16-true", "bf16-mixed"):
        run = [*options, *QUIET, f"trainer.precision={precision}", f"run_dir={tmp_path / precision}"]
        results[precision] = cli.train(config(*run))[number]
    assert results["64-true"] == pytest.approx(results["32-true"], rel=1e-3)
    assert results["bf16-true"] == pytest.approx(results["32-true"], rel=0.2)
    assert results["bf16-mixed"] == pytest.approx(results["32-true"], rel=0.2)


@pytest.mark.parametrize("precision", ["64-true", "bf16-true", "bf16-mixed"])
def test_pictures_and_a_report_of_a_run_in_any_precision(tmp_path, monkeypatch, capsys, precision):
    """Images are of single precision, whatever the network was trained in."""
    options, _ = TASKS["classification"]
    quiet = [option for option in QUIET if option != "pictures=false"]
    run = tmp_path / "run"
    cli.train(
        config(*options, *quiet, "callbacks.pictures_every=1", f"trainer.precision={precision}", f"run_dir={run}")
    )
    assert list((run / "pictures").glob("*.png")) and list((run / "pictures" / "epoch_0001").glob("*.png"))
    assert call(monkeypatch, capsys, "evaluate", f"run={run}", "report=coding", "images=2") == (0, [])
