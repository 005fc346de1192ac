import shutil
from pathlib import Path

import pytest
import torch

import csc_nets
from csc_nets.commands import main

RUN = Path(__file__).parents[1] / "old_checkpoints" / "run"


@pytest.fixture
def run(tmp_path):
    shutil.copytree(RUN, tmp_path / "run")
    return tmp_path / "run"


def test_a_run_becomes_a_graph_of_torch(run, capsys):
    main(["export", f"run={run}", "format=torch"])
    assert "written" in capsys.readouterr().out
    network = csc_nets.load(run).eval()
    program = torch.export.load(run / "network.pt2")
    assert "csc_nets" not in program.graph_module.code  # it is read where this package is not
    graph = program.module()
    for size in (8, 13):
        x = torch.randn(3, network.in_chans, size, size)
        torch.testing.assert_close(graph(x), network(x), rtol=1e-4, atol=1e-5)


def test_a_run_becomes_onnx(run, tmp_path, capsys):
    for package in ("onnx", "onnxscript"):
        pytest.importorskip(package, reason=package)
    runtime = pytest.importorskip("onnxruntime", reason="onnxruntime")
    main(["export", f"run={run}", f"file={tmp_path / 'a.onnx'}"])
    assert float(capsys.readouterr().out.split("difference")[1].split()[0]) < 1e-4
    session, network = runtime.InferenceSession(tmp_path / "a.onnx"), csc_nets.load(run).eval()
    x = torch.randn(3, network.in_chans, 11, 9)
    (found,) = session.run(None, {session.get_inputs()[0].name: x.numpy()})
    torch.testing.assert_close(torch.from_numpy(found), network(x), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["format=onnx"], "run is missing"),
        (["run=nowhere"], "nowhere"),
        (["run=x", "format=tflite"], "format must be one of onnx, torch, got 'tflite'"),
        (["runs=x"], "expected csc-nets export run=FOLDER"),
        (["run=x", "run=y"], "run must be given once, got run=x run=y"),
        (["run=x", "free=maybe"], "free must be true or false"),
    ],
)
def test_bad_arguments_are_one_line(arguments, message, capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["export", *arguments])
    error = capsys.readouterr().err
    assert stopped.value.code == 1 and message in error and len(error.splitlines()) == 1


def test_what_fails_on_the_way_is_one_line_and_leaves_an_earlier_file(run, tmp_path, capsys):
    def fails(*arguments, **options):
        raise RuntimeError("Failed.\nNext steps:") from TypeError("no such function\nin version 3")

    earlier = run / "network.pt2"
    earlier.write_text("earlier")
    (tmp_path / "a file").touch()
    with pytest.MonkeyPatch.context() as patch, pytest.raises(SystemExit):
        patch.setattr(torch.export, "load", fails)
        main(["export", f"run={run}", "format=torch"])
    error = capsys.readouterr().err
    assert "graph; without free sizes, free=False, it may be: no such function\n" in error
    assert len(error.splitlines()) == 1
    for place, shown in ((tmp_path / "a file" / "x.pt2", tmp_path / "a file"), (run, run)):
        with pytest.raises(SystemExit):
            main(["export", f"run={run}", "format=torch", f"file={place}"])
        error = capsys.readouterr().err
        assert str(shown) in error and len(error.splitlines()) == 1
    assert earlier.read_text() == "earlier" and sorted(tmp_path.iterdir()) == [tmp_path / "a file", run]
