"""Networks that voxelmorph 0.2 does not have, and the look-up of networks by name."""

import pkgutil

from vxmlib.checks import check_choice

#: Networks by name, and where their classes are. Text, so that the names are known without an
#: import of TensorFlow, and so that a run depends on the module of its own network alone.
NETWORKS = {
    "strided": "vxmlib.networks.strided:StridedVxmDense",
    "vxm": "vxmlib.backend:vxm.networks.VxmDense",
}
#: What convolutions compute in, see :mod:`vxmlib.networks.precision`.
PRECISIONS = ("float32", "mixed_bfloat16")


def network_class(name):
    """Import a network by its name, for ``network`` of :func:`vxmlib.models.build` and ``load``.

    Examples
    --------
    >>> network_class("vxm").__name__
    'VxmDense'
    """
    return pkgutil.resolve_name(NETWORKS[check_choice("network", name, NETWORKS)])
