"""Train one HyperMorph network for all λ of the wide grid and write its curve as one record.

    python -m tools.hyper --cohort malf --image-loss ncc

The record goes to ``results/lambda/<cohort>/hyper/<image loss>.json``.
"""

import argparse
from dataclasses import replace
from pathlib import Path

from vxmlib import records
from vxmlib.experiments import hyper_curve, sweep

CODE = Path(__file__).resolve().parent.parent


def main() -> None:
    """Train the network, measure its curve and write the record."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cohort", default="mni")
    parser.add_argument("--profile", default="quick")
    parser.add_argument("--image-loss", default="ncc")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--times", type=int, default=4, help="steps, as a multiple of a plain run")
    parser.add_argument("--layers", type=int, default=4, help="dense layers of the hypernetwork")
    parser.add_argument("--units", type=int, default=32, help="units in each dense layer")
    parser.add_argument("--results", type=Path, default=CODE / "results" / "lambda")
    options = parser.parse_args()
    points = sweep.points(
        CODE / "config" / "lambda.yaml", "wide", cohort=options.cohort, profile=options.profile
    )
    plain = [s for s in points.values() if s.image_loss == options.image_loss and not s.int_steps]
    record = hyper_curve.make_record(
        replace(plain[0], seed=options.seed),
        sorted({settings.lam for settings in plain}),
        times=options.times,
        layers=options.layers,
        units=options.units,
    )
    path = options.results / options.cohort / "hyper" / f"{options.image_loss}.json"
    records.write(path, record)
    print(f"wrote {path}")


if __name__ == "__main__":
    main()
