"""Every program of the gallery runs, and what it prints makes sense."""

import importlib.util
import re
import sys
from pathlib import Path

import pytest

pytest.importorskip("matplotlib", reason="the gallery draws with matplotlib, which is not installed")

PROGRAMS = sorted((Path(__file__).parents[1] / "docs" / "gallery").glob("*.py"))


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Runs a program once with ``--quick``: what its ``main`` returned and the pictures it wrote."""
    results = {}

    def runner(name):
        if name not in results:
            spec = importlib.util.spec_from_file_location(f"gallery_{name}", _path(name))
            module = importlib.util.module_from_spec(spec)
            # Data classes look their module up.
            with pytest.MonkeyPatch.context() as patch:
                patch.setitem(sys.modules, spec.name, module)
                spec.loader.exec_module(module)
                folder = tmp_path_factory.mktemp(name)
                results[name] = module.main(["--quick", "--out", str(folder / "picture.png")]), sorted(folder.iterdir())
        return results[name]

    return runner


def _path(name):
    return next(path for path in PROGRAMS if path.stem == name)


def test_there_is_a_gallery():
    assert PROGRAMS


@pytest.mark.parametrize("name", [path.stem for path in PROGRAMS])
def test_program(name, run):
    text = _path(name).read_text()
    assert re.search(rf"python docs/gallery/{name}\.py", text), "the docstring gives the command"
    _, pictures = run(name)
    assert pictures and all(picture.read_bytes().startswith(b"\x89PNG") for picture in pictures)


def test_recovery(run):
    results, pictures = run("multi_layer_recovery")
    assert [picture.name for picture in pictures] == ["picture.png", "picture_tightness.png"]
    rows = results["recovery"]
    # Whatever a theorem promises is so.
    assert all(0 <= row["ratio"] <= 1 for row in rows)
    promised = [row for row in rows if row["holds"] == 1]
    assert {row["method"] for row in promised} == {"hard", "soft", "pursuit"}
    assert all(row["error"] <= row["bound"] for row in promised)
    assert all(row["exact"] == 1 for row in promised if row["method"] in ("hard", "soft"))
    assert all(values and max(values) <= 1 for values in results["tightness"].values())
    # The bounds say something: each is nearly reached, or within the constant of its proof.
    assert all(max(values) > 0.5 for values in results["tightness"].values())
    # Without noise basis pursuit is exact up to its penalty.
    assert 0 < results["noiseless"]["error"] < 20 * results["noiseless"]["penalty"]


def test_basis_pursuit_outlives_thresholding(run):
    rows = run("multi_layer_recovery")[0]["recovery"]
    at = {(row["setting"], row["level"], row["method"]): row for row in rows}
    crowded, quiet = ("two layers, k", 16), ("two layers, noise", 1e-3)
    assert at[*crowded, "pursuit"]["exact"] == 1
    assert at[*crowded, "pursuit"]["error"] < 0.1 * at[*crowded, "hard"]["error"]
    # With little noise its error is the noise's; that of thresholding is what atoms leak into one another.
    assert at[*quiet, "pursuit"]["error"] < 0.3 * at[*quiet, "hard"]["error"]
    loud = at["two layers, noise", 1e-1, "hard"]["error"]
    assert loud < 3 * at[*quiet, "hard"]["error"]


def test_a_dictionary_is_recovered(run):
    results, _ = run("dictionary_recovery")
    assert results["share"] == 1 and results["worst"] > 0.99


def test_hard_thresholding_inverts_random_filters_if_the_switches_are_known(run):
    results, pictures = run("hard_thresholding_1d")
    assert [picture.name for picture in pictures] == ["picture.png", "picture_coherence.png"]
    for row in results["one step"]:
        assert row["analysis"] == pytest.approx(row["with borders"], rel=0.03)
        assert row["true support"] < row["known switches"] < 0.35 and row["fixed switches"] > 1.3
    for medians in results["steps"].values():
        assert medians[10] < 1e-2 * medians[5] < 1e-3 * medians[1]
    apart, alike = results["coherence"]
    assert alike["coherence"] > 2 * apart["coherence"]
    assert alike["one step"] > 3 * apart["one step"] and alike["sparse code recovery"] < 0.03


def test_random_filters_keep_the_norm_of_codes(run):
    results, pictures = run("model_rip")
    assert [picture.name for picture in pictures] == ["picture.png", "picture_constant.png"]
    assert all(row["found"]["delta"] < 0.1 and row["absolute"] < 0.2 for row in results["vgg16"])
    assert {row["filters"] for row in results["network"]} == {"learned", "random"}
    # Activations are not negative and alike: their atoms add up.
    assert all(row["activations"]["mean"] > 1.1 > row["random codes"]["mean"] for row in results["network"])
    found = results["constants"]
    cases = [
        "values and positions drawn",
        "values chosen",
        "values chosen, one position",
        "the same, sums of two codes",
    ]
    assert all(list(column) == sorted(column) for column in zip(*(found[case] for case in cases), strict=True))
