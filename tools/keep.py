"""Keep a lesson's record of this build under ``results/``, for builds that lack the data.

    python -m tools.keep 07_weights

The lesson must have run on the data, from committed code.
"""

import argparse
from pathlib import Path

from vxmlib import records

CODE = Path(__file__).resolve().parent.parent
#: Where the record of a lesson is kept.
PLACES = {"07_weights": "vxm2018/record.json"}


def keep(lesson: str, products: Path, results: Path) -> Path:
    """Copy a record; return its new file.

    Raises
    ------
    ValueError
        The record was made from code that is not committed.
    FileNotFoundError, vxmlib.records.RecordError
        There is no record, or none that can be read.
    """
    source = products / lesson / "record.json"
    record = records.read(source)
    if record["dirty"] is not False:
        raise ValueError(f"{source}: made from code that is not committed; commit, then run again")
    target = results / PLACES[lesson]
    records.write(target, record)
    return target


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("lesson", choices=PLACES)
    parser.add_argument("--products", type=Path, default=CODE / "_build/products/mni-quick")
    options = parser.parse_args()
    print(keep(options.lesson, options.products, CODE / "results"))


if __name__ == "__main__":
    main()
