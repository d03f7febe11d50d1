"""Image losses by name, with a faster version of voxelmorph's local NCC, and a loss of folding.

All image losses have Keras' signature ``loss(y_true, y_pred)``: first the fixed image, then the
warped moving image, both ``(batch, *vol, channels)``.
"""

import itertools

from vxmlib.backend import tf, vxm
from vxmlib.checks import check_choice, check_number, check_whole


class LocalNCC:
    """Squared local cross correlation (NCC) around every voxel, as a loss.

    The value and the gradient are those of ``vxm.losses.NCC``, but they are computed with running
    sums along one axis after the other instead of a dense ``window ** nd`` convolution.

    The score of a voxel is ``cov(I, J)**2 / (var(I) * var(J))``, where the variances and the
    covariance are taken over the window around the voxel, with zeros outside the grid. It is 1
    where one patch is an affine function of the other with a positive slope, and 0 where they are
    unrelated. The loss is minus the mean score, so it lies in [-1, 0] and lower is better. Note
    that:

    * The score ignores the contrast and brightness of a patch, but not the sign of the contrast.
      A negative covariance is replaced by ``eps``, so inverted contrast scores about 0.
    * A window that is constant in **both** images scores 1, so the black background of a brain
      image looks perfectly aligned. Report the score inside the brain as well
      (:func:`vxmlib.metrics.local_ncc`).
    * Intensities must lie in [0, 1]. ``eps`` is compared with sums over the window, so images with
      a range of 1e-4 look constant (score 1, gradient 0). Variances are small differences of large
      sums in float32, so with an offset of 1000 only rounding noise remains.

    Parameters
    ----------
    window : int
        Edge length of the window in voxels: odd, at least 3. The paper uses 9.
    eps : float
        Lower limit of the covariance and the variances, each summed over the window; smaller
        values are replaced by it.

    Raises
    ------
    ValueError
        If ``window`` or ``eps`` is out of range. :meth:`loss` raises it if the shapes of the two
        images differ.

    References
    ----------
    Balakrishnan et al., VoxelMorph, IEEE TMI 2019, equation 6; voxelmorph 0.2 ``tf/losses.py``.

    Examples
    --------
    >>> ramp = tf.reshape(tf.range(256, dtype=tf.float32) / 255, (1, 16, 16, 1))
    >>> [round(float(v), 3) for v in LocalNCC(window=5).loss(ramp, ramp)]
    [-1.0]
    """

    def __init__(self, window=9, eps=1e-5):
        self.window = check_whole("window", window, least=3)
        self.eps = check_number("eps", eps, above=0)
        if self.window % 2 == 0:
            raise ValueError(
                f"window: found {window}, expected an odd number of voxels, because an even window "
                "has no centre voxel; use 9, the paper's value"
            )

    def score(self, y_true, y_pred):
        """Compute the score of every voxel.

        Parameters
        ----------
        y_true, y_pred : tensor, (batch, *vol, channels)
            Fixed and warped image, of the same float type, with intensities in [0, 1].

        Returns
        -------
        tensor, (batch, *vol)
            Squared local correlation, from 0 (unrelated) to 1, over all channels together.

        Raises
        ------
        ValueError
            If the shapes differ.
        """
        fixed, warped = _full_precision(y_true), _full_precision(y_pred)
        if not fixed.shape.is_compatible_with(warped.shape):
            raise ValueError(
                f"y_true, y_pred: found shapes {tuple(fixed.shape)} and {tuple(warped.shape)}, "
                "expected one shape (batch, *vol, channels)"
            )
        nd = fixed.shape.rank - 2
        voxels = self.window**nd * fixed.shape[-1]

        # The fixed image is constant in training, so its separate sums need no gradient.
        maps_f = tf.stack([fixed, fixed * fixed])
        maps_w = tf.stack([warped, warped * warped, fixed * warped])
        sum_f, sum_ff = tf.unstack(_window_sums(maps_f, self.window))  # each (batch, *vol)
        sum_w, sum_ww, sum_fw = tf.unstack(_window_sums(maps_w, self.window))

        # window * (co)variance = sum of products - product of sums / number of voxels
        covariance = tf.maximum(sum_fw - sum_f * sum_w / voxels, self.eps)
        variance_f = tf.maximum(sum_ff - sum_f * sum_f / voxels, self.eps)
        variance_w = tf.maximum(sum_ww - sum_w * sum_w / voxels, self.eps)
        return (covariance / variance_f) * (covariance / variance_w)

    def loss(self, y_true, y_pred):
        """Return minus the mean score of each pair of the batch: ``(batch,)``, in [-1, 0]."""
        score = self.score(y_true, y_pred)
        return -tf.reduce_mean(score, axis=list(range(1, score.shape.rank)))


def _full_precision(image):
    """Return a tensor, as float32 if it has half precision, which is too coarse for the sums."""
    image = tf.convert_to_tensor(image)
    return tf.cast(image, tf.float32) if image.dtype.size < 4 else image


def _window_sums(maps, window):
    """Sum over channels and windows: (maps, batch, *vol, channels) -> (maps, batch, *vol)."""
    spatial = range(2, maps.shape.rank - 1)

    def box(x):
        for axis in spatial:
            x = _running_sum(x, axis=axis, window=window)
        return x

    @tf.custom_gradient
    def self_adjoint_box(x):
        return box(x), box

    return self_adjoint_box(tf.reduce_sum(maps, axis=-1))


def _running_sum(x, *, axis, window):
    """Sum ``window`` neighbours along one axis, with zeros outside, by doubling: 9 = 1 + 8."""
    # A window of 9 takes four additions instead of eight. GPUs that round inside convolutions
    # (TF32) do not round these sums, and there is no growing prefix sum, whose rounding errors
    # would exceed small variances.

    def part(t, begin, cut):
        index = [slice(None)] * x.shape.rank
        index[axis] = slice(begin, -cut or None)
        return t[tuple(index)]

    pad = [[0, 0]] * x.shape.rank
    pad[axis] = [window // 2, window // 2]
    block, width = tf.pad(x, pad), 1  # block[i] is the sum of `width` voxels from i on
    total, start = part(block, 0, window - 1), 1  # the window is odd: one voxel, then blocks
    while 2 * width < window:
        block = part(block, 0, width) + part(block, width, 0)
        width *= 2
        if window & width:
            total += part(block, start, window - width - start)
            start += width
    return total


class FoldingPenalty:
    """Penalise a displacement where it folds, or nearly folds, between neighbouring voxels.

    The penalty of a voxel is the amount by which each of its one-sided Jacobian determinants falls
    below ``margin``, averaged over the four (2D) or eight (3D) determinants that combine forward
    and backward differences. The determinant by central differences is the mean of these, so it is
    positive wherever all of them are; a fold that alternates from voxel to voxel, which central
    differences miss, is penalised as well. The loss is the mean over the voxels inside the border.

    Parameters
    ----------
    margin : float
        Determinants below this value are penalised; at least 0 and below 1.

    Raises
    ------
    ValueError
        If ``margin`` is out of range.

    References
    ----------
    The idea of a loss of negative determinants: Mok and Chung, CVPR 2020
    (doi:10.1109/CVPR42600.2020.00470). The one-sided determinants: Liu et al., IJCV 2024
    (doi:10.1007/s11263-024-02047-1).

    Examples
    --------
    >>> x = tf.range(6, dtype=tf.float32)
    >>> mirrored = tf.stack(tf.meshgrid(-1.5 * x, 0 * x, indexing="ij"), axis=-1)[None]
    >>> FoldingPenalty(margin=0).loss(None, mirrored).numpy().tolist()
    [0.5]
    """

    def __init__(self, margin=0.1):
        self.margin = check_number("margin", margin, least=0)
        if self.margin >= 1:
            raise ValueError(f"margin: found {margin}, expected below 1, the value without change")

    def loss(self, y_true, y_pred):
        """Return the penalty of each displacement of a batch.

        Parameters
        ----------
        y_true
            Not used, as in ``vxm.losses.Grad``.
        y_pred : tensor, (batch, *vol, nd)
            Displacement in voxels, at least 3 voxels along each axis.

        Returns
        -------
        tensor, (batch,)
            At least 0; 0 if no one-sided determinant is below ``margin``.
        """
        determinants = _one_sided_determinants(_full_precision(y_pred))
        missing = tf.add_n([tf.nn.relu(self.margin - each) for each in determinants])
        return tf.reduce_mean(missing, axis=range(1, missing.shape.rank)) / len(determinants)


def _one_sided_determinants(field):
    """List the determinants of all mixed differences, each (batch, *(vol - 2))."""
    nd = field.shape.rank - 2
    sides = []
    for axis in range(nd):
        before, middle, after = (_inside(field, axis, shift) for shift in (-1, 0, 1))
        step = tf.one_hot(axis, nd)
        sides.append((after - middle + step, middle - before + step))
    return [_determinant(edges) for edges in itertools.product(*sides)]


def _inside(field, axis, shift):
    """Return the field at the neighbours, along one axis, of the voxels inside the border."""
    index = [slice(1, -1)] * (field.shape.rank - 2)
    index[axis] = slice(1 + shift, (shift - 1) or None)
    return field[(slice(None), *index)]


def _determinant(columns):
    """Compute the determinant of two or three columns, each (..., nd)."""
    if len(columns) == 2:
        (a, b), (c, d) = (tf.unstack(column, axis=-1) for column in columns)
        return a * d - b * c
    first, second, third = columns
    return tf.reduce_sum(first * tf.linalg.cross(second, third), axis=-1)


def _mse(y_true, y_pred):
    """Return the mean squared difference of each pair; vxm.losses.MSE averages over the batch."""
    squared = vxm.losses.MSE().mse(_full_precision(y_true), _full_precision(y_pred))
    return tf.reduce_mean(squared, axis=list(range(1, squared.shape.rank)))


_LOSSES = {"ncc": lambda: LocalNCC().loss, "mse": lambda: _mse}


def image_loss(name):
    """Look up an image loss by name.

    Parameters
    ----------
    name : str
        "ncc" is :class:`LocalNCC` with a window of 9 voxels, in [-1, 0]; the paper uses λ = 1
        with it. "mse" is the mean squared difference, at least 0; the paper uses λ = 0.01.

    Returns
    -------
    callable
        ``loss(y_true, y_pred)``, which returns one value for each pair of the batch: ``(batch,)``.

    Raises
    ------
    ValueError
        If the name is unknown.

    Examples
    --------
    >>> [float(v) for v in image_loss("mse")(tf.zeros((2, 4, 4, 1)), tf.ones((2, 4, 4, 1)))]
    [1.0, 1.0]
    """
    return _LOSSES[check_choice("image_loss", name, _LOSSES)]()
