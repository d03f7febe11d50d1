"""Build and compile VxmDense networks, save and load them, and register pairs with them."""

import json
import math
from pathlib import Path

import h5py
import numpy as np

from vxmlib import checks, files
from vxmlib.backend import ne, tf, vxm
from vxmlib.losses import image_loss as image_loss_by_name

#: Name -> channels of the U-Net's convolutions: encoder, then decoder and full resolution.
FEATURES = {
    "small": ([8, 16, 16, 16], [16, 16, 16, 16, 16, 8, 8]),
    "vxm1": ([16, 32, 32, 32], [32, 32, 32, 32, 8, 8]),
    "vxm2": ([16, 32, 32, 32], [32, 32, 32, 32, 32, 16, 16]),
    "wide": ([32, 64, 64, 64], [64, 64, 64, 64, 32, 16]),
    "double": ([32, 64, 64, 64], [64, 64, 64, 64, 64, 32, 32]),
}


class ModelFileError(ValueError):
    """A model file is cut off, corrupt or of another class, or has weights that are not finite."""


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
    """Build a VxmDense network and compile it with an image loss and a smoothness loss.

    The loss is ``image_loss(fixed, warped) + lam * Grad``. Grad is the mean over voxels,
    components and axes of the squared difference between neighbouring voxels, which is 1/nd² of
    the paper's sum ‖∇u‖² per voxel. With ``int_steps > 0``, the smoothed field is the velocity on
    a grid that is ``int_resolution`` times coarser, and Grad is multiplied by ``int_resolution``,
    as in voxelmorph's training script, so that the same λ weights it more by this factor. (The
    script also multiplies Grad without integration; this function does not.)

    Parameters
    ----------
    shape : tuple of int
        Grid of the images, 2D or 3D, each size divisible by 16.
    image_loss : str
        "ncc" or "mse", see :func:`vxmlib.losses.image_loss`.
    lam : float
        Weight λ of the smoothness loss, at least 0. The paper uses 1 with NCC and 0.01 with MSE.
    learning_rate : float
        Learning rate of Adam, above 0; the paper uses 1e-4.
    int_steps : int
        Steps of scaling and squaring, 0 to 12. With 0, the network predicts the displacement
        itself (the 2019 paper). With more, for example 7, it predicts a stationary velocity and
        integrates it (the diffeomorphic variant).
    int_resolution : int
        Voxel size of the velocity grid during integration, in voxels of the image grid: 1, 2, 4,
        8 or 16. It has no effect without integration.
    bidir : bool
        Whether to also warp the fixed image onto the moving image; each of the two image losses
        then has the weight 0.5.
    features : str
        Name of the U-Net, a key of :data:`FEATURES`.
    clipnorm : float, optional
        Largest norm of the gradient of each weight tensor. By default, gradients are not clipped.
    network : callable
        Class or function that makes the network from the arguments of VxmDense, such as the one
        that :func:`vxmlib.networks.hyper.build` passes.

    Returns
    -------
    vxm.networks.VxmDense
        Compiled model. Its inputs are ``[moving, fixed]``, each ``(batch, *shape, 1)``. Its
        outputs are named "image", "back" (only with ``bidir``) and "smoothness", so that Keras
        logs ``image_loss`` and ``smoothness_loss``. The last output is the field that is
        smoothed, which need not be the displacement; :func:`register` returns the displacement.

    Raises
    ------
    ValueError
        If a parameter is invalid; the message names it, its value and the values expected.

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


def with_labels(model, count, *, weight):
    """Make a model that also warps label maps, with their Dice in its loss.

    It adds what ``vxm.networks.VxmDenseSemiSupervisedSeg`` adds to VxmDense: a third input with the
    maps of the observed structures of the moving subject at half resolution, and a further output,
    these maps warped linearly by the displacement, which is rescaled to their grid. The loss
    ``weight * vxm.losses.Dice`` is added to those of ``model``.

    Both models share their layers, weights and optimiser, so training the result trains ``model``.
    Only the images determine the displacement. :func:`register` and :func:`save` therefore use only
    ``model``, and subjects to register need no labels.

    Parameters
    ----------
    model : VxmDense
        Compiled model from :func:`build`, of any class.
    count : int
        Number of observed structures, at least 1.
    weight : float
        Weight of the Dice loss, which is in [-1, 0]; at least 0.

    Returns
    -------
    tf.keras.Model
        Compiled model. Its inputs are those of ``model`` and the maps ``(batch, *vol / 2, count)``,
        its outputs those of ``model`` and the warped maps, named "labels".

    Raises
    ------
    ValueError
        If ``count`` or ``weight`` is out of range, or the model is not compiled.

    References
    ----------
    Balakrishnan et al., IEEE TMI 2019 (auxiliary segmentation); voxelmorph's
    ``scripts/tf/train_semisupervised_seg.py``.

    Examples
    --------
    >>> labelled = with_labels(build((32, 32), features="small"), 4, weight=0.5)
    >>> list(labelled.output_names), labelled.output_shape[-1]
    (['image', 'smoothness', 'labels'], (None, 16, 16, 4))
    """
    count = checks.check_whole("count", count, least=1)
    weight = checks.check_number("weight", weight, least=0)
    if getattr(model, "optimizer", None) is None:
        raise ValueError("model is not compiled: use vxmlib.models.build, or call compile first")
    shape = tuple(size // 2 for size in model.inputs[0].shape[1:-1])
    maps = tf.keras.Input((*shape, count), name="source_labels")
    half = vxm.layers.RescaleTransform(0.5, dtype="float32")(model.references.pos_flow)
    transformer = vxm.layers.SpatialTransformer(
        interp_method="linear", indexing="ij", dtype="float32"
    )
    warped = transformer([maps, half])
    labelled = tf.keras.Model([*model.inputs, maps], [*model.outputs, warped])
    labelled.output_names = [*model.output_names, "labels"]
    labelled.references = ne.modelio.ReferenceContainer()
    labelled.references.vxm_model = model  # under the name that VxmDenseSemiSupervisedSeg uses
    labelled.compile(
        optimizer=model.optimizer,
        loss=[*model.loss, vxm.losses.Dice().loss],
        loss_weights=[*model.get_compile_config()["loss_weights"], weight],
    )
    _create_variables(labelled)
    return labelled


def plain(model):
    """Return the registration network of a model that also warps labels, or the model itself.

    Parameters
    ----------
    model : tf.keras.Model
        Model from :func:`with_labels`, a ``VxmDenseSemiSupervisedSeg``, or any other model.

    Examples
    --------
    >>> model = build((32, 32), features="small")
    >>> plain(with_labels(model, 4, weight=0.5)) is model, plain(model) is model
    (True, True)
    """
    return getattr(getattr(model, "references", None), "vxm_model", model)


def _create_variables(model):
    """Create the variables of the optimiser and the losses before the first training step."""
    # Otherwise Keras creates them in the first training step and traces that step twice, and
    # tracing takes as long as many steps. Under a distribution strategy, a loss cannot be computed
    # outside of a step, so Keras has to create them there.
    if tf.distribute.has_strategy():
        return
    model.optimizer.build(model.trainable_variables)

    def zeros(tensors):
        return [tf.zeros((1, *(4,) * (t.shape.rank - 2), t.shape[-1])) for t in tensors]

    outputs = zeros(model.outputs)
    model.compute_loss(x=zeros(model.inputs), y=outputs, y_pred=outputs)
    model.reset_metrics()


def field_shape(model):
    """Return the grid of the smoothed field, which the zero target of :mod:`vxmlib.pairs` needs.

    Parameters
    ----------
    model : VxmDense

    Returns
    -------
    tuple of int
        The image grid, or the coarser grid on which the model integrates a velocity.

    Examples
    --------
    >>> field_shape(build((32, 32), int_steps=1))
    (16, 16)
    """
    return tuple(plain(model).outputs[-1].shape[1:-1])


def outputs_gb(model):
    """Compute the memory that the outputs of all layers take for one pair.

    Training keeps these outputs to compute gradients. The gradients and the loss are not counted.

    Parameters
    ----------
    model : tf.keras.Model
        Model whose layers have outputs of known size; no memory is allocated.

    Returns
    -------
    float
        Memory in GB (1e9 bytes), in float32.

    Examples
    --------
    >>> image = tf.keras.Input((10, 10, 1))
    >>> features = tf.keras.layers.Conv2D(5, 3, padding="same")(image)  # 500 numbers
    >>> round(1e9 * outputs_gb(tf.keras.Model(image, features)))
    2000
    """
    layers = [x for x in model.layers if not isinstance(x, tf.keras.layers.InputLayer)]
    return sum(4e-9 * math.prod(layer.output.shape[1:]) for layer in layers)


def register(model, moving, fixed, *more):
    """Predict the displacement that warps ``moving`` onto ``fixed``.

    The result is always the full-resolution displacement with which the model itself warps. It is
    never the model's last output, which is a velocity on a coarser grid if the model integrates.

    Parameters
    ----------
    model : VxmDense
        Model from :func:`build` or :func:`load`; its image grid is ``vol``.
    moving, fixed : ndarray, (*vol)
        Finite intensities in [0, 1].
    *more : ndarray
        Further inputs of the model, without a batch axis, such as those that
        :func:`vxmlib.networks.hyper.register` passes.

    Returns
    -------
    ndarray, (*vol, nd), float32
        Displacement in voxels, axis order "ij", on the fixed grid, pointing into the moving
        image: ``warped(x) = moving(x + u(x))``.

    Raises
    ------
    ValueError
        If an image does not have the model's shape, is not finite or is not in [0, 1]; or if the
        displacement is not finite because the model has diverged.

    Examples
    --------
    >>> model = build((32, 32))
    >>> image = np.linspace(0, 1, 1024, dtype="float32").reshape(32, 32)
    >>> register(model, image, image).shape
    (32, 32, 2)
    """
    model = plain(model)
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
        # On a CPU, the integration of NaN raises this error; on a GPU, the result is NaN.
        displacement = np.full((*shape, len(shape)), np.nan, np.float32)
    return checks.check_displacement(displacement)


def points_nowhere(error):
    """Return whether a TensorFlow error means that a displacement does not point at a voxel.

    Such a displacement is NaN or points far outside the grid. On a CPU, the warp and the
    integration then fail when they look up the voxel.

    Examples
    --------
    >>> points_nowhere(tf.errors.InvalidArgumentError(None, None, "indices[0] is not in [0, 9)"))
    True
    """
    return "is not in [0, " in str(error)


def finite_weights(model):
    """Return whether all weights of a model are finite."""
    return all(np.isfinite(weight).all() for weight in model.get_weights())


def _displacement_function(model):
    """Compile the path from the inputs to the displacement, once per model."""
    # It is kept on `references`, which Keras does not track. As an attribute of the model, it
    # would become part of the model's weights and checkpoints.
    if not hasattr(model.references, "displacement_function"):
        full = tf.keras.Model(model.inputs, model.references.pos_flow)
        single = [tf.TensorSpec((1, *each.shape[1:]), tf.float32) for each in model.inputs]
        model.references.displacement_function = tf.function(
            lambda *inputs: full(list(inputs), training=False)
        ).get_concrete_function(*single)
    return model.references.displacement_function


def save(model, path):
    """Write a model to one HDF5 file, which ``vxm.networks.VxmDense.load`` can also read.

    Parameters
    ----------
    model : VxmDense
        Model whose weights and constructor arguments are saved. Of a model of :func:`with_labels`,
        only the registration network is saved.
    path : path
        Name that ends in ``.h5``; an existing file is replaced only when the new one is complete.

    Raises
    ------
    ValueError
        If the name does not end in ``.h5``.
    OSError
        If the file cannot be written.
    """
    path = Path(path)
    if path.suffix != ".h5":
        raise ValueError(
            f"path: found {path.name!r}, expected .h5 as its ending, because VxmDense reads HDF5"
        )
    model = plain(model)
    config = {"class_name": type(model).__name__, "config": model.get_config()}
    with files.whole(path) as part:
        # VxmDense.load reads only the weights and the constructor arguments. Keras' model.save
        # would also write the optimiser, and losses that Keras cannot load again.
        model.save_weights(part, save_format="h5")
        with h5py.File(part, "r+") as file:
            file.attrs["model_config"] = json.dumps(config)


def load(path, *, network=vxm.networks.VxmDense):
    """Read a model that :func:`save` (or the ``save`` method of VxmDense) wrote.

    Parameters
    ----------
    path : path
        HDF5 file, ``.h5``.
    network : type
        Class of the saved model: VxmDense, or another such as
        :class:`vxmlib.networks.hyper.HyperVxmDense`.

    Returns
    -------
    VxmDense
        Model with the saved weights, not compiled, ready for :func:`register`. To continue
        training, build the same model and call ``set_weights(loaded.get_weights())`` on it.

    Raises
    ------
    FileNotFoundError
        If the file does not exist.
    ModelFileError
        If the file is cut off or corrupt, holds a model of another class than ``network``, or has
        weights that are NaN or infinite.
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
            f"{path} is not a complete {expected} file ({error}): it may be cut off or of another "
            "kind; save it again or download it again"
        ) from error
    if model is None:
        raise ModelFileError(
            f"{path} holds a {class_name}, expected a {expected}; pass the class that it holds as "
            "network (vxmlib.networks.network_class returns the classes of vxmlib by name)"
        )
    if not finite_weights(model):
        raise ModelFileError(
            f"{path} holds weights that are NaN or infinite, expected finite ones: the training "
            "run that wrote it diverged; train again with a lower learning rate, or use an "
            "earlier file"
        )
    return model
