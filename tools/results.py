"""Measure the chosen runs of the λ grid on the test subjects, and make the tables and figures.

python -m tools.results test --cohort malf    # after the validation records are committed
python -m tools.results tables                # `make results` runs this; always the same bytes
"""

import argparse
import os
from pathlib import Path

import pandas as pd

from tools import record_table
from vxmlib import files, records
from vxmlib.book import figures
from vxmlib.experiments import sweep
from vxmlib.experiments.settings import Settings

CODE = Path(__file__).resolve().parent.parent
FOLDER = CODE / "results" / "lambda"
COHORTS = ("mni", "malf")


def chosen_points(folder: Path, cohort: str, *, common: float = 0.01) -> list[Settings]:
    """Return the runs to measure on the test subjects: the chosen λ of each group, and a common λ.

    :func:`vxmlib.experiments.sweep.choose` chooses from the validation records in ``folder``.

    Parameters
    ----------
    folder : Path
        Folder with the committed λ records, one subfolder for each cohort.
    cohort : str
        Name of the cohort.
    common : float
        λ of a further run, with NCC and without integration.
    """
    chosen = sweep.choose(sweep.runs(folder / cohort), sweep.by_pair(folder / cohort))
    wanted = set(chosen[["image_loss", "int_steps", "lam"]].itertuples(index=False, name=None))
    wanted.add(("ncc", 0, common))
    points = sweep.points(CODE / "config" / "lambda.yaml", "wide", cohort=cohort).values()
    return [s for s in points if (s.image_loss, s.int_steps, s.lam) in wanted]


def measure_on_test(folder: Path, cohort: str, build: Path) -> None:
    """Run 06_lambda for each chosen point on the test subjects, with the network trained before.

    A point that has a record is skipped.

    Parameters
    ----------
    folder : Path
        Folder with the committed λ records, to which the new records are written.
    cohort : str
        Name of the cohort.
    build : Path
        Folder for the outputs of builds, which holds the trained networks.
    """
    from tools.grid import run_point

    points = chosen_points(folder, cohort)
    for number, settings in enumerate(points, start=1):
        target = folder / cohort / "test" / f"{settings.name}.json"
        if target.exists():
            continue
        written = build / "lambda" / f"test-{cohort}-{settings.profile}" / target.name
        run_point(
            settings,
            written,
            root=CODE,
            build=build,
            threads=os.cpu_count(),
            label=f"[{number}/{len(points)}] {settings.name}",
            evaluate="test",
        )
        records.write(target, records.read(written))


def tables(folder: Path) -> dict[str, pd.DataFrame]:
    """Return the tables of the committed λ records, by file name without extension.

    Raises
    ------
    vxmlib.experiments.sweep.GridError, vxmlib.records.RecordError
        If a record is not valid or does not fit the others. The message names the file.
    """
    names = [name for name in COHORTS if (folder / name).is_dir()]
    runs = pd.concat([sweep.runs(folder / name) for name in names])
    tests = pd.concat([sweep.runs(folder / name / "test") for name in names])
    pairs, test_pairs = (
        pd.concat([sweep.by_pair(folder / name / part) for name in names]) for part in ("", "test")
    )
    chosen = sweep.choose(runs, pairs)
    return {
        "runs": runs,
        "dice": sweep.curve(runs, "dice_mean"),
        "folding": sweep.curve(runs, "folding_percent_brain"),
        "chosen": chosen,
        "test": sweep.report(tests).reset_index(),
        "differences": sweep.differences(test_pairs, chosen),
        "hyper": pd.concat(
            [
                sweep.hyper_curves(path)
                for name in names
                if (path := folder / name / "hyper").is_dir()
            ]
        ),
    }


def write_tables(by_name: dict[str, pd.DataFrame], target: Path) -> list[Path]:
    """Write each table as a CSV file with six significant digits; return the files."""
    written = []
    for name, table in by_name.items():
        written.append(target / f"{name}.csv")
        files.write_text(written[-1], table.to_csv(index=False, float_format="%.6g"))
    return written


def write_figures(by_name: dict[str, pd.DataFrame], target: Path) -> list[Path]:
    """Draw the curves of each cohort as an SVG file; return the files."""
    target.mkdir(parents=True, exist_ok=True)
    written = []
    for cohort in by_name["runs"]["cohort"].unique():
        of = {name: table[table["cohort"] == cohort] for name, table in by_name.items()}
        identity = of["runs"]["identity_dice"].iloc[0]
        figure = figures.lambda_curves(
            of["dice"], of["folding"], identity=identity, hyper=of["hyper"]
        )
        written.append(target / f"lambda-{cohort}.svg")
        with files.whole(written[-1]) as part:
            figure.savefig(part)
    return written


def main() -> None:
    """Run the command that the command line names."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("command", choices=["test", "tables"])
    parser.add_argument("--cohort", default="mni", choices=COHORTS)
    parser.add_argument("--build", type=Path, default=CODE / "_build")
    options = parser.parse_args()
    if options.command == "test":
        measure_on_test(FOLDER, options.cohort, options.build.resolve())
        return
    by_name = tables(FOLDER)
    print(*write_tables(by_name, FOLDER / "tables"), sep="\n")
    print(*write_figures(by_name, options.build / "results"), sep="\n")
    record_table.write_readme()


if __name__ == "__main__":
    main()
