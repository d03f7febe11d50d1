"""Load the trained network that the package ships, or another one, and register with it."""

import json
from functools import partial
from importlib import metadata
from pathlib import Path

import h5py

from vxmlib import models
from vxmlib.methods import passes
from vxmlib.networks import NETWORKS, network_class
from vxmlib.scans.inputs import InputError

#: The training run whose weights the package ships, see ``config/real.yaml``.
SHIPPED = "wide"
#: Number of passes; each is averaged with that of the mirrored pair. Both were chosen on the
#: validation subjects of the comparison in 3D.
PASSES = 2


def shipped_weights():
    """Return the path of the weights that the package ships.

    Returns
    -------
    pathlib.Path
        File in the repository, or where the installation of the package put it.

    Raises
    ------
    FileNotFoundError
        If the file is in neither place.
    """
    name = f"{SHIPPED}.h5"
    beside = Path(__file__).resolve().parents[2] / "results" / "malf" / "weights" / name
    if beside.is_file():
        return beside
    for file in metadata.files("vxmlib") or ():
        if file.name == name:
            return Path(file.locate())
    raise FileNotFoundError(f"{name}: found neither {beside} nor an installed file of this name")


def load(path, shape, affine):
    """Load a network, and return a function that registers with it.

    Parameters
    ----------
    path : str, Path or None
        Weights in the format of :func:`vxmlib.models.save`. None means :func:`shipped_weights`.
    shape : tuple of int
        Grid of the images.
    affine : (4, 4) array_like
        Voxel index -> RAS mm of this grid, about whose midplane the pair is mirrored.

    Returns
    -------
    callable
        ``register(moving, fixed)`` returns a displacement ``(*shape, 3)`` in voxels.

    Raises
    ------
    InputError
        If the file is missing, holds no network of this package or of voxelmorph, or holds one for
        another grid.
    """
    path = shipped_weights() if path is None else Path(path).expanduser()
    model = _model(path)
    grid = tuple(model.inputs[0].shape[1:-1])
    if grid != tuple(shape):
        raise InputError(
            f"{path}: found a network for {grid} voxels, expected one for {tuple(shape)}, the grid "
            "on which scans are registered. Train it with ndim=3 and spacing=2.0."
        )
    register = passes.mirror_averaged(partial(models.register, model), affine)
    return passes.repeated(register, PASSES)


def _model(path):
    if not path.is_file():
        raise InputError(f"{path}: no such file, expected the weights of a network (.h5)")
    known = {network_class(name).__name__: network_class(name) for name in NETWORKS}
    try:
        with h5py.File(path, "r") as file:
            found = json.loads(file.attrs["model_config"])["class_name"]
    except (OSError, LookupError, ValueError, TypeError) as error:
        raise InputError(f"{path}: found no saved network ({error}), expected .h5") from error
    if found not in known:
        raise InputError(f"{path}: found a {found}, expected one of: {', '.join(known)}")
    try:
        return models.load(path, network=known[found])
    except models.ModelFileError as error:
        raise InputError(str(error)) from error
