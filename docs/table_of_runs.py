"""Mean and spread over seeds of the runs that a sweep left behind: one row for runs that differ in the seed alone.

    python train.py -m experiment=mnist_ml_csc_short model.pursuit=ml_ista,ml_fista seed=0,1,2
    python docs/table_of_runs.py runs/mnist_ml_csc_short-mnist [--key test/acc]

Every folder below the given ones that holds config.yaml and metrics.json is a finished run.
"""

import argparse
import json
import statistics
from collections import defaultdict
from pathlib import Path

import yaml


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("folders", type=Path, nargs="+", help="folders with runs at any depth")
    options.add_argument("--key", default="test/acc", help="number of metrics.json (default test/acc)")
    chosen = options.parse_args()
    found: dict[str, list[tuple[float, float]]] = defaultdict(list)
    labels: dict[str, str] = {}
    for metrics in sorted(path for folder in chosen.folders for path in folder.rglob("metrics.json")):
        config = yaml.safe_load((metrics.parent / "config.yaml").read_text())
        numbers = json.loads(metrics.read_text())
        if chosen.key not in numbers:
            print(f"left out: {metrics.parent} has no {chosen.key}")
            continue
        for name in ("seed", "run_dir", "resume"):
            config.pop(name, None)
        group = json.dumps(config, sort_keys=True)
        model = " ".join(str(v) if k == "name" else f"{k}={v}" for k, v in config["model"].items())
        labels[group] = (
            f"{config['data']['name']} {model} lr={config['task']['lr']} {config['trainer']['max_epochs']} ep."
        )
        found[group].append((numbers[chosen.key], numbers["training_seconds"]))
    if not found:
        raise SystemExit(f"no finished run with {chosen.key} under {', '.join(map(str, chosen.folders))}")
    width = max(map(len, labels.values()))
    print(f"{chosen.key:{width}}  runs    mean     min     max  seconds")
    for group, runs in sorted(found.items(), key=lambda item: labels[item[0]]):
        values = [value for value, _ in runs]
        numbers = "  ".join(f"{f(values):.4f}" for f in (statistics.mean, min, max))
        seconds = statistics.median(seconds for _, seconds in runs)
        print(f"{labels[group]:{width}}  {len(values):4}  {numbers}  {seconds:7.0f}")


if __name__ == "__main__":
    main()
