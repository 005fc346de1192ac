"""What the benchmarks share: rows that say where they come from, exponents, pictures, two revisions side by side."""

import importlib
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture(autouse=True)
def _path(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))


def row(name, ours, ratio=1.0, **more):
    return {"name": name, "ours": ours, "reference": ours / ratio, "ratio": ratio, "unit": "ms"} | more


def test_rows_say_where_they_were_measured(tmp_path):
    timing = importlib.import_module("timing")
    timing.report([timing.row("a", [2e-3, 4e-3, 3e-3], [1e-3, 1e-3, 2e-3])], tmp_path / "rows.json", "floor")
    (written,) = json.loads((tmp_path / "rows.json").read_text())
    assert {"name", "ours", "reference", "ratio", "unit"} <= set(written)
    assert (written["ours"], written["reference"], written["ratio"]) == (3.0, 1.0, 2.0)
    assert {"cpu", "cores", "threads", "torch", "csc_nets", "revision", "date"} <= set(written["machine"])


def test_the_exponent_is_the_slope_of_the_upper_half():
    scale = importlib.import_module("scale")
    assert scale.exponent([(x, 5 * x**1.7) for x in (8, 1, 2, 4)]) == pytest.approx(1.7)
    # An overhead that small sizes pay does not count.
    assert scale.exponent([(x, max(100, x**2)) for x in (1, 2, 5, 10, 20, 40)]) == pytest.approx(2)

    assert scale.exponent([(1, 3), (2, 12)]) == pytest.approx(2)  # two points are a line


def test_exponents_of_all_and_of_small_codes():
    scale = importlib.import_module("scale")
    # Proportional as long as the code is small, twice as dear above; bytes quadratic.
    rows = [
        row("", x * (1 + (x > 8)), 0.5, axis="batch", mode="eval", x=x, peak=x * x, code=scale.LARGE // 8 * x)
        for x in (1, 2, 4, 16, 32, 64)
    ]
    found = {r["name"]: r for r in scale.exponents(rows)}
    assert found["exponent of time of small codes in batch, eval"]["ours"] == pytest.approx(1)
    assert found["exponent of peak in batch, eval"]["ours"] == pytest.approx(2)
    assert set(found) == {f"exponent of {what} in batch, eval" for what in ("time", "time of small codes", "peak")}


def test_bytes_of_a_pass():
    scale = importlib.import_module("scale")
    x = torch.ones(1000, requires_grad=True)
    # Both exponentials keep their results, the sine keeps the first of them, which counts once.
    assert scale.saved_bytes(lambda: x.exp().sin().exp(), [x]) == 2 * 4000
    assert scale.saved_bytes(lambda: x.square(), [x]) == 0
    peak = scale.peak_bytes(lambda: torch.ones(1000).add(1).mul(2), "cpu")
    assert 2 * 4000 <= peak < 2.2 * 4000  # the ones are gone when the product is made


def test_page_faults_of_memory_that_comes_and_goes():
    # In a process of its own: one that has freed much memory before may hand out that without a fault.
    program = "import json, scale, torch; " + (
        "print(json.dumps([scale.from_system(lambda: torch.ones(n))['faults'] for n in (16, 16, 2**24)]))"  # 64 MiB
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=BENCHMARKS, capture_output=True, text=True, check=True)
    _, few, many = json.loads(done.stdout.splitlines()[-1])  # the first call loads code
    assert few < 4 < many


@pytest.mark.parametrize("channels, atoms, kernel", [(1, 64, 3), (3, 32, 8)])
def test_tiles_stay_within_their_budget(channels, atoms, kernel):
    from csc_nets.layers import CSC2d, encode_tiles

    scale = importlib.import_module("scale")
    layer, x = CSC2d(channels, atoms, kernel, padding="same", steps=4).eval(), torch.randn(1, channels, 260, 240)

    def stream():
        for _, code in encode_tiles(layer, x, budget=budget):
            assert code.shape[1] == atoms

    whole = 4 * atoms * 260 * 240
    budget = whole // 2
    assert whole // 8 < scale.peak_bytes(stream, "cpu") <= budget


@pytest.fixture
def layer_case():
    """A function: extent of the atoms to a small layer of ``tried_pursuits``."""
    tried = importlib.import_module("tried_pursuits")

    def build(size):
        weight = torch.nn.functional.normalize(torch.randn(12, 2 * size * size)).view(12, 2, size, size)
        return tried.Case("", weight, torch.randn(2, 2, 8, 8), torch.randn(2, 2, 8, 8), 0.3, updates=2, tol=1e-6)

    return build


@pytest.mark.parametrize(
    "size, pursuit", [(3, "majorised"), (3, "relaxed"), (3, "anderson"), (1, "short_douglas_rachford")]
)
def test_pursuits_that_were_tried_go_on_to_the_optimum(layer_case, size, pursuit):
    case, run = layer_case(size), getattr(importlib.import_module("tried_pursuits"), pursuit)
    found = run(case, 600)
    assert -1e-4 < case.excess(found() if callable(found) else found) < 1e-3 < case.excess(case.zero)


def test_frozen_steps_are_calibrated_steps_that_leave_atoms_alone(layer_case):
    tried, case = importlib.import_module("tried_pursuits"), layer_case(3)
    with torch.no_grad():
        coefficients, some = tried.half(case, 2)
        ours = tried.frozen(case, coefficients, some)()
        first, last = (
            tried.calibrated(case.new, case.dictionary, case.lam, coefficients[:n], nonneg=True) for n in (1, 3)
        )
    torch.testing.assert_close(ours, last)
    still = (ours == first).flatten(2).all(2).all(0)
    assert len(some) == 6 <= still.sum() < 12 and not still[some].all()


def test_analytic_weights():
    analytic = importlib.import_module("tried_pursuits").analytic
    orthonormal = torch.linalg.qr(torch.randn(4, 4)).Q.view(4, 4, 1, 1)
    torch.testing.assert_close(analytic(orthonormal), orthonormal)
    atoms = torch.randn(5, 2, 3, 3)
    filters = analytic(atoms)
    torch.testing.assert_close((filters * atoms).sum((1, 2, 3)), torch.ones(5))

    def correlation(w):  # with all atoms at all shifts
        return torch.nn.functional.conv2d(torch.nn.functional.pad(atoms, [2] * 4), w).square().sum((0, 2, 3))

    own = atoms / atoms.square().sum((1, 2, 3), keepdim=True)
    other = filters + 0.1 * torch.randn_like(atoms)
    other = other / (other * atoms).sum((1, 2, 3))[:, None, None, None]
    assert (correlation(filters) < correlation(own)).all() and (correlation(filters) < correlation(other)).all()


def test_every_picture_of_a_folder_is_a_crop_once(tmp_path):
    from torchvision.io import write_png

    for k in range(4):
        write_png(torch.full((3, 40, 36), 60 * k, dtype=torch.uint8).random_(60 * k, 60 * k + 9), f"{tmp_path}/{k}.png")
    pursuits = importlib.import_module("pursuits")
    known, new = pursuits.crops(2, tmp_path)
    assert known.shape == new.shape == (2, 3, 32, 32)
    crops = torch.cat([known, new]).flatten(1)
    assert crops.unique(dim=0).shape == crops.shape and crops.mean(1).abs().max() < 0.2
    with pytest.raises(SystemExit, match="at least 6"):
        pursuits.crops(3, tmp_path)


@pytest.mark.parametrize("kind", ["curves", "bars"])
def test_pictures(kind, tmp_path):
    pytest.importorskip("matplotlib")
    if kind == "curves":
        rows = [
            row(f"{axis} {x}, {mode}", x**2, axis=axis, mode=mode, x=x, peak=x * 100)
            for axis in ("atoms", "steps")
            for mode in ("eval", "train")
            for x in (1, 2, 4)
        ]
        rows.append({**row("exponent of time in atoms, eval", 2.0), "unit": "exponent"})
    else:
        rows = [row("one", 3.0, 1.5, ratio_min=1.2, ratio_max=2.0), row("two", 3.0, 0.5)]
    file = tmp_path / "rows.json"
    file.write_text(json.dumps(rows))
    picture = importlib.import_module("plot").main([str(file)])
    assert picture == tmp_path / "rows.png" and picture.read_bytes()[:4] == b"\x89PNG"


def test_merged_rows_are_medians_of_quotients_round_by_round():
    compare = importlib.import_module("compare")
    a = [[row("x", 2.0, 2.0), row("gone", 1.0)], [row("x", 4.0, 2.0)], [row("x", 8.0, 2.0)]]
    b = [[row("new", 1.0), row("x", 1.0, 1.0)], [row("x", 4.0, 3.0)], [row("x", 2.0, 1.0)]]
    (merged,) = compare.merge(a, b)
    assert merged["name"] == "x" and (merged["reference"], merged["ours"]) == (4.0, 2.0)
    assert (merged["ratio"], merged["ratio_min"], merged["ratio_max"]) == (0.5, 0.25, 1.0)
    assert (merged["relative"], merged["relative_min"], merged["relative_max"]) == (0.5, 0.5, 1.5)


PROGRAM = """
import json, sys, pace
print(sys.argv)
options = sys.argv[1:]
rows = [{"name": "a", "ours": pace.PACE, "reference": 1, "ratio": pace.PACE, "unit": options[-1]}]
open(options[options.index("--json") + 1], "w").write(json.dumps(rows))
"""


@pytest.fixture
def repository(tmp_path):
    """Two commits of a benchmark whose figure is 2 in the first and 6 in the second."""
    folder = tmp_path / "repository"
    (folder / "benchmarks").mkdir(parents=True)
    (folder / "benchmarks" / "tiny.py").write_text(PROGRAM)

    def git(*arguments):
        identity = ["-c", "user.name=a", "-c", "user.email=a@b.c"]
        subprocess.run(["git", "-C", str(folder), *identity, *arguments], check=True, capture_output=True)

    git("init")
    for pace in (2, 6):
        (folder / "pace.py").write_text(f"PACE = {pace}\n")
        git("add", ".")
        git("commit", "-m", f"Go at {pace}")
    return folder


def test_two_revisions_of_a_repository(repository, tmp_path, capsys):
    compare = importlib.import_module("compare")
    arguments = ["HEAD~1", "HEAD", "--benchmark", "tiny", "--rounds", "2", "--repository", str(repository)]
    (merged,) = compare.main([*arguments, "--json", str(tmp_path / "rows.json"), "--", "--unit", "ms"])
    assert (merged["reference"], merged["ours"], merged["ratio"], merged["unit"]) == (2, 6, 3, "ms")
    assert merged["revision_a"] != merged["revision_b"]
    assert json.loads((tmp_path / "rows.json").read_text()) == [merged]
    assert "3.000 (3.00 to 3.00)" in capsys.readouterr().out
    left = subprocess.run(["git", "-C", str(repository), "worktree", "list"], capture_output=True, text=True).stdout
    assert len(left.splitlines()) == 1  # checkouts are gone
    with pytest.raises(SystemExit, match=r"has no benchmarks/other\.py"):
        compare.main(["HEAD", "HEAD", "--benchmark", "other", "--repository", str(repository)])
    with pytest.raises(SystemExit, match="nothing"):
        compare.main(["nothing", "HEAD", "--repository", str(repository)])


def test_every_benchmark_tells_its_options():
    for program in sorted(BENCHMARKS.glob("*.py")):
        if program.stem in ("timing", "plot", "compare"):
            continue
        text = program.read_text()
        assert "timing.parser(" in text or ("--quick" in text and "--json" in text), program.name


def test_causes_of_a_shift_of_means():
    from torch import nn

    lag = importlib.import_module("batch_norm_lag")
    torch.manual_seed(0)
    old = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Conv2d(4, 3, 1), nn.BatchNorm2d(3))
    assert lag.norms_and_layers(old) == {"1": "0", "3": "2"}
    x = torch.randn(16, 1, 8, 8)
    new = lag.copy.deepcopy(old)
    with torch.no_grad():
        new[1].bias += 0.1 * torch.randn(4)
    found = lag.shifts(old, new, x)
    assert found["1"] == {"all": 0, "biases": 0, "layer": 0} and found["3"]["layer"] == 0
    # A 1 x 1 layer moves its means by its weights times the change of the biases.
    seen = old.train()[2](old[1](old[0](x)))
    moved = old[2].weight[:, :, 0, 0] @ new[1].bias
    expected = (moved / seen.std((0, 2, 3))).square().mean().sqrt()
    assert found["3"]["biases"] == pytest.approx(expected.item(), rel=1e-4) == pytest.approx(found["3"]["all"])
