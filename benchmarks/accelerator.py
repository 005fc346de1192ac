"""Everything that an accelerator should be asked, in one command that goes on where it was stopped.

    python benchmarks/accelerator.py OUT [--minutes 60] [--only NAME ...] [--list]
                                     [--cifar10 FOLDER] [--mnist ROOT] [--public PATH]

OUT receives NAME.txt and NAME.json of every part that has ended (one that failed says so in its first line), and the
run folders of trainings, which go on from their last epoch. Call it again until nothing is left; delete a file to have
its part again. With ``--minutes`` no part runs on after that time. Without the data their trainings are left out:
``--cifar10`` is torchvision's root or a folder with train/CLASS/*.jpg, ``--mnist`` torchvision's root. ``--public`` is
a clone of github.com/Delay-Xili/SDNet, to compare with.

First come the tests that compare the accelerator with the CPU, then times over their floors and against others,
then whole published trainings with other pursuits beside them. ``--device cpu --quick`` rehearses all but the tests.
"""

import argparse
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parent.parent
FOLDERS = ("cifar10", "mnist", "public")
LEAST = 30  # seconds in which a part can say something


def parts(options: argparse.Namespace) -> Iterator[tuple[str, list[str]]]:
    """Names and arguments of Python, the most telling first."""
    quick = ["--quick"] if options.quick else []

    def benchmark(name: str, *more: str) -> list[str]:
        return [f"benchmarks/{name}.py", "--device", options.device, *more, *quick]

    if options.device != "cpu":
        yield "tests", ["-m", "pytest", "-m", "gpu", "-q"]
    yield "shrink", benchmark("shrink")
    yield "shrink_graphs", benchmark("shrink", "--compile")
    whole = ["--network", "sdnet18_all", "--batch", "2" if options.quick else "128"]
    yield "layer", benchmark("layer", *whole)
    yield "layer_bf16", benchmark("layer", *whole, "--bf16")
    yield "layer_bf16_graphs", benchmark("layer", *whole, "--bf16", "--compile")
    public = ["--public", str(options.public)] if options.public else []
    yield "networks", benchmark("networks", "--batch", "128", *public)
    yield "networks_graphs", benchmark("networks", "--batch", "128", "--compile", *public)
    yield "backward", benchmark("backward")
    yield "solve", benchmark("solve", "--peer")
    yield "folder", benchmark("tiles", "--folder")
    yield "scale", benchmark("scale")
    yield "rate_reduction", benchmark("rate_reduction")
    yield "closed_loop", benchmark("closed_loop")

    train = ["train.py", f"trainer={'cpu' if options.device == 'cpu' else 'gpu'}", "pictures=false"]
    if options.quick:
        train += [f"trainer.{what}={n}" for what, n in (("max_epochs", 1), ("limit_train_batches", 2))]
        train += ["trainer.limit_val_batches=1", "trainer.limit_test_batches=1", "data.batch_size=16"]
    if options.cifar10:
        folder = (options.cifar10 / "train").is_dir()
        data = ["data=image_folder", "data.image_size=32"] if folder else ["data.download=false"]
        data += [f"data.root={options.cifar10}", "channels_last=true", "trainer.precision=bf16-mixed"]
        for pursuit, steps in (("fista", 2), ("calibrated", 1), ("calibrated", 2)):
            recipe = ["experiment=cifar10_sdnet18_all", f"model.pursuit={pursuit}", f"model.steps={steps}"]
            yield f"train_sdnet18_all_{pursuit}_{steps}", [*train, *recipe, *data]
        for network in ("resnet18", "sdnet18"):
            yield f"train_{network}", [*train, f"experiment=cifar10_{network}", *data]
    if options.mnist:
        data = ["data.download=false", f"data.root={options.mnist}"]
        for network in ("csc_ctrl_32", "conv_ctrl_32"):
            yield f"train_mnist_{network}", [*train, "experiment=mnist_csc_ctrl", f"model={network}", *data]


def run(name: str, arguments: list[str], out: Path, seconds: float) -> bool:
    """Runs a part; False if it was stopped before its end."""
    report, trains = out / f"{name}.txt", arguments[0] == "train.py"
    command = [sys.executable, *arguments]
    if trains and (out / name / "config.yaml").is_file():
        command = [sys.executable, "train.py", f"resume={out / name}"]
    elif trains:
        command.append(f"run_dir={out / name}")
    elif arguments[0] != "-m":
        command += ["--json", str(out / f"{name}.json")]
    partial = report.with_suffix(".part")
    started = time.perf_counter()
    with partial.open("w") as log:
        process = subprocess.Popen(command, cwd=ROOT, stdout=log, stderr=subprocess.STDOUT)
        try:
            code = process.wait(None if seconds == float("inf") else seconds)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGINT)
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            return False
    first = f"{'ended' if code == 0 else f'FAILED ({code})'} after {time.perf_counter() - started:.0f} s\n"
    report.write_text(first + " ".join(command) + "\n\n" + partial.read_text())
    partial.unlink()
    return True


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--minutes", type=float, default=float("inf"), help="stop after so many (default: at the end)")
    for name in FOLDERS:
        parser.add_argument(f"--{name}", type=Path)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--only", nargs="+", help="names of parts")
    parser.add_argument("--list", action="store_true", help="say what is left, and do nothing")
    options = parser.parse_args(argv)
    for name in ("out", *FOLDERS):
        if (path := getattr(options, name)) is not None:
            setattr(options, name, path.absolute())
            if name in FOLDERS and not path.is_dir():
                parser.error(f"--{name}: there is no folder {path}")
    known = dict(parts(options))
    if unknown := set(options.only or ()) - set(known):
        parser.error(f"no part is called {', '.join(sorted(unknown))}; there are {', '.join(known)}")
    end = time.monotonic() + 60 * options.minutes
    options.out.mkdir(parents=True, exist_ok=True)
    left = [name for name in options.only or known if not (options.out / f"{name}.txt").is_file()]
    for name in left if not options.list else ():
        if (seconds := end - time.monotonic()) < LEAST:
            break
        print(f"{name} ...", end=" ", flush=True)
        if not run(name, known[name], options.out, seconds):
            print("stopped: no time left")
            break
        print((options.out / f"{name}.txt").read_text().splitlines()[0])
    left = [name for name in known if not (options.out / f"{name}.txt").is_file()]
    print(f"left: {', '.join(left) or 'nothing'}")


if __name__ == "__main__":
    main()
