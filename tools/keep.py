"""Copy a lesson's record from this build to ``results/``, for builds that lack the data.

    python -m tools.keep 07_weights

The lesson must have run on the data, and from committed code.
"""

import argparse
from pathlib import Path

from vxmlib import records

CODE = Path(__file__).resolve().parent.parent
#: Path in ``results/`` of the record of each lesson.
PLACES = {"07_weights": "vxm2018/record.json"}


def keep(lesson: str, products: Path, results: Path) -> Path:
    """Copy the record of a lesson and return the path of the copy.

    Parameters
    ----------
    lesson : str
        Name of a lesson in :data:`PLACES`.
    products : Path
        Folder with the products of a build.
    results : Path
        Folder for committed records.

    Raises
    ------
    ValueError
        If the record was made from code that is not committed.
    FileNotFoundError, vxmlib.records.RecordError
        If there is no record, or if it cannot be read.
    """
    source = products / lesson / "record.json"
    record = records.read(source)
    if record["dirty"] is not False:
        raise ValueError(f"{source}: made from code that is not committed; commit, then run again")
    target = results / PLACES[lesson]
    records.write(target, record)
    return target


def main() -> None:
    """Copy the record that the command line names."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("lesson", choices=PLACES)
    parser.add_argument("--products", type=Path, default=CODE / "_build/products/mni-quick")
    options = parser.parse_args()
    print(keep(options.lesson, options.products, CODE / "results"))


if __name__ == "__main__":
    main()
