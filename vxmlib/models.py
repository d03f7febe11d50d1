"""Build and compile VxmDense by name, save and load it, and register pairs with it."""

import json
import math
from pathlib import Path

import h5py
import numpy as np

from vxmlib import checks, files
from vxmlib.backend import tf, vxm
from vxmlib.losses import image_loss as image_loss_by_name

#: U-Net features by name: convolutions of the encoder, then of the decoder and at full size.
FEATURES = {
    "small": ([8, 16, 16, 16], [16, 16, 16, 16, 16, 8, 8]),
    "vxm1": ([16, 32, 32, 32], [32, 32, 32, 32, 8, 8]),
    "vxm2": ([16, 32, 32, 32], [32, 32, 32, 32, 32, 16, 16]),
    "wide": ([32, 64, 64, 64], [64, 64, 64, 64, 32, 16]),
    "double": ([32, 64, 64, 64], [64, 64, 64, 64, 64, 32, 32]),
}


class ModelFileError(ValueError):
    """A model file is cut off, corrupt, of another class, or has weights that are not finite."""


def build(
    shape,
    *,
    image_loss="ncc",
    lam=1.0,
    learning_rate=1e-4,
    int_steps=0,
    int_resolution=2,
    bidir=False,
    features="vxm2",
    clipnorm=None,
    network=vxm.networks.VxmDense,
):
    """Build a VxmDense and compile it with an image loss and λ times the smoothness of its field.

    The loss is ``image_loss(fixed, warped) + lam * Grad``. Grad is the mean over voxels,
    components and axes of the squared difference between neighbours, which is 1/nd² of the
    paper's sum ‖∇u‖² per voxel. With ``int_steps > 0`` the smoothed field is the velocity, on a
    grid ``int_resolution`` times coarser, and Grad is multiplied by ``int_resolution``, as
    voxelmorph's training script does: a value of λ there smooths that much more. (The script
    multiplies without integration too; here λ then weighs Grad as it is.)

    Parameters
    ----------
    shape : tuple of int
        Grid of the images, 2D or 3D, each size divisible by 16.
    image_loss : str
        "ncc" or "mse", see :func:`vxmlib.losses.image_loss`.
    lam : float
        Weight λ of the smoothness, at least 0. The paper takes 1 with NCC, 0.01 with MSE.
    learning_rate : float
        Of Adam; the paper's is 1e-4.
    int_steps : int
        Steps of scaling and squaring, 0 to 12: 0 gives the displacement itself (the 2019 paper),
        7 takes the field for a stationary velocity and integrates it (diffeomorphic).
    int_resolution : int
        Voxel size of the velocity grid during integration: 1, 2, 4, 8 or 16. Without integration
        it does nothing.
    bidir : bool
        Also warp the fixed image back; the two image losses then weigh 0.5 each.
    features : str
        A name of :data:`FEATURES`.
    clipnorm : float, optional
        Largest norm of each weight's gradient.
    network : callable
        What makes the network from VxmDense's arguments; :func:`vxmlib.networks.hyper.build` has
        another.

    Returns
    -------
    vxm.networks.VxmDense
        Compiled. Inputs ``[moving, fixed]``, each ``(batch, *shape, 1)``; outputs named "image",
        ("back" with ``bidir``,) and "smoothness", so that Keras logs ``image_loss`` and
        ``smoothness_loss``. The last output is the field that is smoothed, not in general the
        displacement: that is what :func:`register` gives.

    Raises
    ------
    ValueError
        Naming the parameter, what was found and what would do.

    References
    ----------
    Balakrishnan et al., IEEE TMI 2019 (network, losses, λ); Dalca et al., MICCAI 2018
    (integration); voxelmorph's ``scripts/tf/train.py`` (weights).

    Examples
    --------
    >>> model = build((32, 32), lam=0.5)
    >>> list(model.output_names)
    ['image', 'smoothness']
    """
    shape = checks.check_shape(shape)
    lam = checks.check_number("lam", lam, least=0)
    learning_rate = checks.check_number("learning_rate", learning_rate, above=0)
    if clipnorm is not None:
        clipnorm = checks.check_number("clipnorm", clipnorm, above=0)
    checks.check_choice("int_steps", int_steps, range(13))
    checks.check_choice("int_resolution", int_resolution, (1, 2, 4, 8, 16))
    checks.check_choice("features", features, FEATURES)
    similarity = image_loss_by_name(image_loss)

    model = network(
        shape,
        nb_unet_features=[list(part) for part in FEATURES[features]],
        int_steps=int(int_steps),
        int_resolution=int(int_resolution),
        bidir=bool(bidir),
    )
    model.output_names = ["image", "back", "smoothness"] if bidir else ["image", "smoothness"]
    coarser = int_resolution if int_steps > 0 else 1
    smoothness = vxm.losses.Grad("l2", loss_mult=coarser).loss
    model.compile(
        optimizer=tf.keras.optimizers.Adam(learning_rate, clipnorm=clipnorm),
        loss=[similarity, similarity, smoothness] if bidir else [similarity, smoothness],
        loss_weights=[0.5, 0.5, lam] if bidir else [1.0, lam],
    )
    _create_variables(model)
    return model


def _create_variables(model):
    """Make the variables of optimiser and losses now.

    Left to the first training step, they make Keras trace that step twice, and tracing takes as
    long as many steps. Under a distribution strategy it has to be left: a loss cannot be computed
    there outside of a step.
    """
    if tf.distribute.has_strategy():
        return
    model.optimizer.build(model.trainable_variables)

    def zeros(tensors):
        return [tf.zeros((1, *(4,) * (t.shape.rank - 2), t.shape[-1])) for t in tensors]

    outputs = zeros(model.outputs)
    model.compute_loss(x=zeros(model.inputs), y=outputs, y_pred=outputs)
    model.reset_metrics()


def field_shape(model):
    """Give the grid of the smoothed field, for the zero target of :mod:`vxmlib.pairs`.

    Parameters
    ----------
    model : VxmDense

    Returns
    -------
    tuple of int
        The image grid, or the coarser one on which a velocity is integrated.

    Examples
    --------
    >>> field_shape(build((32, 32), int_steps=1))
    (16, 16)
    """
    return tuple(model.outputs[-1].shape[1:-1])


def outputs_gb(model):
    """Memory that the outputs of all layers take for one pair: what training keeps for gradients.

    Parameters
    ----------
    model : tf.keras.Model
        Its sizes are known; nothing is allocated. Gradients and the loss are not counted.

    Returns
    -------
    float
        GB (1e9 bytes), in float32.

    Examples
    --------
    >>> image = tf.keras.Input((10, 10, 1))
    >>> features = tf.keras.layers.Conv2D(5, 3, padding="same")(image)  # 500 numbers
    >>> round(1e9 * outputs_gb(tf.keras.Model(image, features)))
    2000
    """
    made = [x for x in model.layers if not isinstance(x, tf.keras.layers.InputLayer)]
    return sum(4e-9 * math.prod(layer.output.shape[1:]) for layer in made)


def register(model, moving, fixed, *more):
    """Predict the displacement that carries ``moving`` onto ``fixed``.

    Always the full-resolution displacement the model itself warps with; never its last output,
    which with integration is a velocity on a coarser grid.

    Parameters
    ----------
    model : VxmDense
        Built by :func:`build` or loaded by :func:`load`; its image grid is ``vol``.
    moving, fixed : ndarray, (*vol)
        Finite intensities in [0, 1].
    *more : ndarray
        Inputs that the model has beside the images; :func:`vxmlib.networks.hyper.register` gives
        them.

    Returns
    -------
    ndarray, (*vol, nd), float32
        Displacement in voxels, axis order "ij", on the fixed grid, pointing into the moving
        image: ``warped(x) = moving(x + u(x))``.

    Raises
    ------
    ValueError
        If an image has another shape than the model, or is not finite, or not in [0, 1]; or if
        the displacement is not finite, because the model has diverged.

    Examples
    --------
    >>> model = build((32, 32))
    >>> image = np.linspace(0, 1, 1024, dtype="float32").reshape(32, 32)
    >>> register(model, image, image).shape
    (32, 32, 2)
    """
    shape = tuple(model.inputs[0].shape[1:-1])
    images = [
        checks.check_image_on_grid(image, name=name, shape=shape)[..., None]
        for name, image in (("moving", moving), ("fixed", fixed))
    ]
    inputs = [np.asarray(each, np.float32)[None] for each in (*images, *more)]
    try:
        displacement = _displacement_function(model)(*map(tf.constant, inputs))[0].numpy()
    except tf.errors.InvalidArgumentError as error:
        if not points_nowhere(error):
            raise
        # A CPU fails in the integration where a GPU goes on with NaN.
        displacement = np.full((*shape, len(shape)), np.nan, np.float32)
    return checks.check_displacement(displacement)


def points_nowhere(error):
    """Whether TensorFlow's error says that a displacement points at no voxel: NaN, or far beyond.

    On a CPU the warp and the integration look that voxel up, and fail.

    Examples
    --------
    >>> points_nowhere(tf.errors.InvalidArgumentError(None, None, "indices[0] is not in [0, 9)"))
    True
    """
    return "is not in [0, " in str(error)


def finite_weights(model):
    """Whether no weight of a model is NaN or infinite."""
    return all(np.isfinite(weight).all() for weight in model.get_weights())


def _displacement_function(model):
    """Compile the path from the inputs to the displacement, once per model."""
    # Kept on `references`, which Keras does not track: an attribute of the model would become
    # part of its weights and checkpoints.
    if not hasattr(model.references, "displacement_function"):
        full = tf.keras.Model(model.inputs, model.references.pos_flow)
        single = [tf.TensorSpec((1, *each.shape[1:]), tf.float32) for each in model.inputs]
        model.references.displacement_function = tf.function(
            lambda *inputs: full(list(inputs), training=False)
        ).get_concrete_function(*single)
    return model.references.displacement_function


def save(model, path):
    """Write the model as one HDF5 file that ``vxm.networks.VxmDense.load`` reads too.

    Parameters
    ----------
    model : VxmDense
    path : path
        Ends in ``.h5``; an old file is replaced only when the new one is complete.

    Raises
    ------
    ValueError
        If the name does not end in ``.h5``.
    OSError
        If the folder cannot be written.
    """
    path = Path(path)
    if path.suffix != ".h5":
        raise ValueError(f"path: found {path.name!r}, expected .h5 at its end: VxmDense reads HDF5")
    config = {"class_name": type(model).__name__, "config": model.get_config()}
    with files.whole(path) as part:
        # Weights and constructor arguments are all that VxmDense.load reads. Keras' own
        # model.save would add the optimiser, and losses that it cannot load back.
        model.save_weights(part, save_format="h5")
        with h5py.File(part, "r+") as file:
            file.attrs["model_config"] = json.dumps(config)


def load(path, *, network=vxm.networks.VxmDense):
    """Read a model written by :func:`save` (or by VxmDense's own ``save``).

    Parameters
    ----------
    path : path
    network : type
        The class that was saved: VxmDense, or :class:`vxmlib.networks.hyper.HyperVxmDense`.

    Returns
    -------
    VxmDense
        With its weights, not compiled: ready to register. To train on, build the same model and
        ``set_weights(loaded.get_weights())``.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ModelFileError
        If the file is cut off, corrupt, holds something else than a ``network``, or weights that
        are NaN or infinite.
    """
    expected = network.__name__
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no model file at {path}: train one, or check the path")
    try:
        with h5py.File(path, "r") as file:
            class_name = json.loads(file.attrs["model_config"])["class_name"]
        model = network.load(str(path)) if class_name == expected else None
    except (OSError, LookupError, ValueError, TypeError, AttributeError) as error:
        raise ModelFileError(
            f"{path} is no complete {expected} file ({error}): it may be cut off or of another "
            "kind; save it again, or fetch it anew"
        ) from error
    if model is None:
        raise ModelFileError(
            f"{path} holds a {class_name}, expected a {expected}; pass network= the class it holds "
            "(vxmlib.networks.network_class gives ours by name)"
        )
    if not finite_weights(model):
        raise ModelFileError(
            f"{path} holds weights that are NaN or infinite, expected finite ones: the training "
            "that wrote it has diverged; train again with a lower learning rate, or take an "
            "earlier file"
        )
    return model
