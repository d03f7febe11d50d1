"""Draw the layers of vxmlib and the imports between them, for the book's page on the package.

The layers come from the import contract in pyproject.toml, and the arrows from the code.

    python -m tools.package package.svg
"""

import sys
import textwrap
from pathlib import Path

import grimp
import matplotlib
from importlinter.api import read_configuration
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch

CODE = Path(__file__).resolve().parent.parent
TOP_LEVEL, SUBPACKAGE = "#dce9f7", "#f4ead7"
#: Width of a box in inches, narrow enough that its text can be read on a phone.
WIDTH = 4.2


def layers() -> list[tuple[str, ...]]:
    """Return the layers of the import contract, highest first: modules, or one subpackage."""
    contracts = read_configuration(str(CODE / "pyproject.toml"))["contracts_options"]
    (contract,) = (contract for contract in contracts if contract["id"] == "layers")
    return [tuple(layer.replace(" ", "").split(":")) for layer in contract["layers"]]


def groups(graph: grimp.ImportGraph) -> list[list[str]]:
    """Return the modules of each layer, highest first; a subpackage precedes its modules."""
    return [
        [name for top in layer for name in (top, *sorted(_inside(graph, top)))]
        for layer in layers()
    ]


def arrows(graph: grimp.ImportGraph) -> set[tuple[int, int]]:
    """Return which layer imports from which, as pairs of layer numbers.

    An arrow that follows from other arrows is left out.
    """
    layer_of = {
        f"vxmlib.{name}": number
        for number, group in enumerate(groups(graph))
        for name in group
    }  # fmt: skip
    below = {number: set() for number in layer_of.values()}
    for name, number in layer_of.items():
        for imported in graph.find_modules_directly_imported_by(name):
            below[number] |= {layer_of.get(imported, number)} - {number}
    reached = {}
    for number in sorted(below, reverse=True):
        reached[number] = below[number].union(*(reached[lower] for lower in below[number]))
    return {
        (upper, lower)
        for upper, lowers in below.items()
        for lower in lowers
        if not any(lower in reached[other] for other in lowers)
    }


def draw(path: Path) -> None:
    """Draw the layers of the package and write the picture as an SVG file."""
    graph = grimp.build_graph("vxmlib", cache_dir=None)
    fig = Figure(layout="constrained")
    ax = fig.add_subplot()
    edges, bottom = [], 0.0
    for group in groups(graph):
        subpackage = any("." in name for name in group)
        names = [name.rpartition(".")[2] for name in group[subpackage:]]
        lines = group[:subpackage] + textwrap.wrap(", ".join(names), 50)
        top, bottom = bottom + 0.2, bottom + 0.4 + 0.18 * len(lines)
        style, colour = "round,pad=0,rounding_size=0.05", SUBPACKAGE if subpackage else TOP_LEVEL
        ax.add_patch(FancyBboxPatch((0, top), WIDTH, bottom - top, style, fc=colour))
        ax.text(0.12, (top + bottom) / 2, "\n".join(lines), va="center", size=10, linespacing=1.3)
        edges.append((top, bottom))
    for upper, lower in arrows(graph):
        start, end, bend = (WIDTH / 2, edges[upper][1]), (WIDTH / 2, edges[lower][0]), 0.0
        if lower > upper + 1:  # around the boxes in between
            start, end, bend = (WIDTH, start[1] - 0.12), (WIDTH, end[1] + 0.12), -0.15
        arrow = {"arrowstyle": "-|>", "connectionstyle": f"arc3,rad={bend}", "fc": "black"}
        ax.annotate("", end, start, arrowprops=arrow | {"shrinkA": 0, "shrinkB": 0})
    ax.set(xlim=(-0.05, WIDTH + 0.9), ylim=(bottom + 0.05, 0.15), aspect="equal")
    ax.axis("off")
    fig.set_size_inches(WIDTH + 0.95, bottom - 0.1)
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "vxmlib"}):
        fig.savefig(path, format="svg", metadata={"Date": None})


def _inside(graph: grimp.ImportGraph, top: str) -> set[str]:
    return {name.removeprefix("vxmlib.") for name in graph.find_descendants(f"vxmlib.{top}")}


if __name__ == "__main__":
    draw(Path(sys.argv[1]))
