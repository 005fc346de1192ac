import re
import shutil
from pathlib import Path

import pytest
from browser import BROWSER, visit
from hydra import compose, initialize_config_dir
from PIL import Image

import csc_nets.cli as cli

pytest.importorskip("jinja2", reason="pages are laid out by jinja2, which is not installed")

CONFIGS = str(Path(__file__).parents[2] / "configs")
SHORT = ["trainer.max_epochs=1", "callbacks.progress_bar=false", "pictures=false"]


def config(*overrides, name="evaluate"):
    with initialize_config_dir(CONFIGS):
        return compose(name, overrides=list(overrides))


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run folder of a small classifier."""
    folder = tmp_path_factory.mktemp("runs") / "small"
    cli.train(config("model.widths=[6,8]", *SHORT, f"run_dir={folder}", name="train"))
    return folder


def test_the_page_of_a_classifier(run, capsys):
    (run / "reports").mkdir(exist_ok=True)
    (run / "reports" / "noise.txt").write_text("sigma 0.1 <measured>\n")
    (run / "reports" / "images=3").mkdir()
    (run / "reports" / "images=3" / "theory.txt").write_text("of three\n")
    cli.evaluate(config(f"run={run}", "report=page"))
    assert "page.html" in capsys.readouterr().out
    text = (run / "reports" / "page.html").read_text()
    parts = ["Training", "Confusion", "Hardest images", "Atoms by stage", "Density and firing rates"]
    parts += ["Reconstructions by stage", "Coherence and guarantees", "Energy", "Report noise"]
    parts += ["Report theory, images=3", "Get it again"]
    places = [text.index(f">{part}</h2>") for part in parts]
    assert places == sorted(places)
    assert "csc_small on digits: images of 1 x 8 x 8, 1,079 train, 359 val, 359 test; 1 epochs, seed 0." in text
    assert "sigma 0.1 &lt;measured&gt;" in text and "http" not in text
    assert text.count("<svg") == text.count('role="img"') and 'alt=""' not in text


def test_the_command_of_the_page_gives_the_same_configuration(run):
    """Hydra reads it as a user would type it."""
    import html
    import shlex

    cli.evaluate(config(f"run={run}", "report=page"))
    text = (run / "reports" / "page.html").read_text()
    (found,) = re.findall(r"<code>(python train.py .*?)</code>", text, re.S)
    _, program, *options = shlex.split(html.unescape(found))
    assert program == "train.py"
    grouped = [f"++{o}" if "." in o.split("=")[0] else o for o in options]
    again, once = cli.plain(config(*grouped, name="train")), cli.RunFolder(run).config()
    for group in ("data", "model", "task", "trainer", "callbacks", "seed"):
        assert again[group] == once[group], group


def test_runs_side_by_side(run, tmp_path):
    other = shutil.copytree(run, tmp_path / "other")
    cli.evaluate(config(f"run=[{run},{other}]", "report=page", "images=4"))
    (file,) = (run / "reports").rglob("page_of_runs.html")
    assert file.parent.name.startswith("runs=2-images=4-")
    assert not list((other / "reports").glob("runs=*"))  # nothing is written for it
    text = file.read_text()
    assert text.count("<h3>small</h3>") == text.count("<h3>other</h3>") >= 6
    assert "small train/loss" in text and "other train/loss" in text
    with pytest.raises(ValueError, match="compared by report=page or report=robustness, got report=theory"):
        cli.evaluate(config(f"run=[{run},{other}]", "report=theory"))


@pytest.mark.skipif(BROWSER is None, reason="no Chromium")
@pytest.mark.parametrize("width, dark", [(390, False), (390, True), (1200, False)])
def test_the_page_in_a_browser(run, tmp_path, width, dark):
    """On a phone and on a desk, light and dark: all figures are there, nothing scrolls sideways, no label is hidden."""
    cli.evaluate(config(f"run={run}", "report=page"))
    seen = visit(run / "reports" / "page.html", tmp_path, width=width, dark=dark)
    assert seen["console"] == [] and seen["width"] == width >= seen["scroll"]
    assert seen["figures"] > 8 and seen["empty"] == seen["broken"] == 0
    assert seen["overlaps"] == []
    brightness = sum(map(int, re.findall(r"\d+", seen["background"])[:3]))
    assert brightness < 200 if dark else brightness > 600
    assert Image.open(seen["shot"]).size[0] >= width
