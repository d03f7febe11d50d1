"""Provide networks that are not part of voxelmorph 0.2, and find a network by its name."""

import pkgutil

from vxmlib.checks import check_choice

#: Name of a network -> location of its class. The locations are strings, so that the names can be
#: listed without importing TensorFlow, and a run depends only on the module of its network.
NETWORKS = {
    "strided": "vxmlib.networks.strided:StridedVxmDense",
    "vxm": "vxmlib.backend:vxm.networks.VxmDense",
}
#: Precisions in which convolutions can compute; see :mod:`vxmlib.networks.precision`.
PRECISIONS = ("float32", "mixed_bfloat16")


def network_class(name):
    """Import the class of a network by its name.

    Parameters
    ----------
    name : str
        A name of :data:`NETWORKS`.

    Returns
    -------
    type
        Class for the argument ``network`` of :func:`vxmlib.models.build` and
        :func:`vxmlib.models.load`.

    Raises
    ------
    ValueError
        The name is unknown.

    Examples
    --------
    >>> network_class("vxm").__name__
    'VxmDense'
    """
    return pkgutil.resolve_name(NETWORKS[check_choice("network", name, NETWORKS)])
