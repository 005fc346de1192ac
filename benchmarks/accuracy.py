"""Mean and spread over seeds of the runs that a sweep left behind, one row for each network and its options.

    python train.py -m experiment=mnist_ml_csc_short model.pursuit=ml_ista,ml_fista seed=0,1,2
    python benchmarks/accuracy.py runs/mnist_ml_csc_short-mnist [--key test/acc] [--json FILE]

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
    options.add_argument("--json", type=Path, help="write the rows to this file")
    chosen = options.parse_args()
    found: dict[str, list[tuple[float, float]]] = defaultdict(list)
    for folder in chosen.folders:
        for metrics in sorted(folder.rglob("metrics.json")):
            config = yaml.safe_load((metrics.parent / "config.yaml").read_text())
            numbers = json.loads(metrics.read_text())
            if chosen.key not in numbers:
                raise SystemExit(f"{metrics} has no {chosen.key!r}; it has {', '.join(sorted(numbers))}")
            name = " ".join(str(v) if k == "name" else f"{k}={v}" for k, v in config["model"].items())
            name += f" epochs={config['trainer']['max_epochs']}"
            found[name].append((numbers[chosen.key], numbers["training_seconds"]))
    if not found:
        raise SystemExit(f"no finished run under {', '.join(map(str, chosen.folders))}")
    rows = []
    for name, runs in sorted(found.items()):
        values = [value for value, _ in runs]
        rows.append(
            {
                "name": name,
                "runs": len(values),
                "mean": statistics.mean(values),
                "min": min(values),
                "max": max(values),
                "seconds": statistics.median(seconds for _, seconds in runs),
            }
        )
    width = max(len(str(row["name"])) for row in rows)
    print(f"{chosen.key:{width}}  runs    mean     min     max  seconds")
    for row in rows:
        numbers = "  ".join(f"{row[key]:.4f}" for key in ("mean", "min", "max"))
        print(f"{row['name']:{width}}  {row['runs']:4}  {numbers}  {row['seconds']:7.0f}")
    if chosen.json is not None:
        chosen.json.write_text(json.dumps(rows, indent=2) + "\n")


if __name__ == "__main__":
    main()
