"""Image losses by name, among them voxelmorph's local NCC computed faster.

All image losses have Keras' signature ``loss(y_true, y_pred)``: the fixed image first, the warped
moving image second, both ``(batch, *vol, channels)``.
"""

from vxmlib.backend import tf, vxm
from vxmlib.checks import check_choice, check_number, check_whole


class LocalNCC:
    """Squared local cross correlation in a cube around every voxel, as a loss.

    The same function as ``vxm.losses.NCC`` (value and gradient), computed with running sums along
    one axis after the other in place of a dense ``window ** nd`` convolution.

    For each voxel, with mean and (co)variance taken over its window and zeros outside the grid,
    the score is ``cov(I, J)**2 / (var(I) * var(J))``: 1 where one patch is an affine function of
    the other with positive slope, 0 where they are unrelated. The loss is minus the mean score,
    so it lies in [-1, 0] and lower is better. What it scores, and what it misses:

    * the contrast and brightness of a patch do not matter, its sign does: a negative covariance
      counts as none (cut off at ``eps``), so inverted contrast scores about 0;
    * a window that is constant in **both** images scores 1, so the black background of a brain
      image looks perfectly aligned; report the score inside the brain as well
      (:func:`vxmlib.metrics.local_ncc`);
    * intensities must be in [0, 1]. ``eps`` is compared with sums over the window, so images of
      range 1e-4 look constant (score 1, gradient 0); and variances are small differences of large
      sums in float32, so an offset of 1000 leaves only rounding noise.

    Parameters
    ----------
    window : int
        Edge of the window in voxels: odd, at least 3. The paper's value is 9.
    eps : float
        Smallest covariance and variance (summed over the window) that counts.

    Raises
    ------
    ValueError
        If ``window`` or ``eps`` is out of range; by ``loss``, if the two images differ in shape.

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
                "has no centre voxel; take 9, the paper's value"
            )

    def score(self, y_true, y_pred):
        """Score every voxel.

        Parameters
        ----------
        y_true, y_pred : tensor, (batch, *vol, channels)
            Fixed and warped image, of one float type, intensities in [0, 1].

        Returns
        -------
        tensor, (batch, *vol)
            Squared local correlation, 0 (unrelated) to 1; the channels are scored together.

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

        # The fixed image is constant during training: summed apart, its sums need no gradient.
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
        """Give minus the mean score of each pair of the batch: ``(batch,)``, in [-1, 0]."""
        score = self.score(y_true, y_pred)
        return -tf.reduce_mean(score, axis=list(range(1, score.shape.rank)))


def _full_precision(image):
    """A tensor, of half precision (a mixed precision policy) as float32: sums need the digits."""
    image = tf.convert_to_tensor(image)
    return tf.cast(image, tf.float32) if image.dtype.size < 4 else image


def _window_sums(maps, window):
    """Sum over channels and a cube: (maps, batch, *vol, channels) -> (maps, batch, *vol)."""
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
    """Sum ``window`` neighbours along one axis, zeros outside, by doubling: 9 = 1 + 8.

    Four additions in place of nine, exact on GPUs that round inside convolutions (TF32), and no
    growing prefix sum whose rounding would swamp small variances.
    """

    def part(t, begin, cut):
        index = [slice(None)] * x.shape.rank
        index[axis] = slice(begin, -cut or None)
        return t[tuple(index)]

    pad = [[0, 0]] * x.shape.rank
    pad[axis] = [window // 2, window // 2]
    block, width = tf.pad(x, pad), 1  # block[i] is the sum of `width` voxels from i on
    total, start = part(block, 0, window - 1), 1  # window is odd: one voxel, then blocks
    while 2 * width < window:
        block = part(block, 0, width) + part(block, width, 0)
        width *= 2
        if window & width:
            total += part(block, start, window - width - start)
            start += width
    return total


def _mse(y_true, y_pred):
    """Give the mean squared difference of each pair; vxm.losses.MSE averages the batch too."""
    squared = vxm.losses.MSE().mse(_full_precision(y_true), _full_precision(y_pred))
    return tf.reduce_mean(squared, axis=list(range(1, squared.shape.rank)))


_LOSSES = {"ncc": lambda: LocalNCC().loss, "mse": lambda: _mse}


def image_loss(name):
    """Look up an image loss by name.

    Parameters
    ----------
    name : str
        "ncc": :class:`LocalNCC` with window 9, in [-1, 0]; the paper's λ for it is 1.
        "mse": mean squared difference, at least 0; the paper's λ for it is 0.01.

    Returns
    -------
    callable
        ``loss(y_true, y_pred)``, one value for each pair of the batch: ``(batch,)``.

    Raises
    ------
    ValueError
        For another name.

    Examples
    --------
    >>> [float(v) for v in image_loss("mse")(tf.zeros((2, 4, 4, 1)), tf.ones((2, 4, 4, 1)))]
    [1.0, 1.0]
    """
    return _LOSSES[check_choice("image_loss", name, _LOSSES)]()
