"""Make datasets of training and validation pairs for Keras' ``fit``."""

import numpy as np

from vxmlib.backend import tf
from vxmlib.checks import check_image_on_grid, check_whole


def pair_dataset(
    cohort,
    ids,
    *,
    batch_size,
    seed,
    field_shape=None,
    start_step=0,
    prefetch=2,
    atlas=None,
    bidir=False,
    augment=None,
    both_ways=False,
):
    """Make an infinite dataset of random ordered pairs of subjects, for training.

    The batch of step k depends only on the arguments and on k, so a run that is resumed at step k
    sees the pairs that it would have seen without the interruption. Pairs are drawn with
    replacement, as in voxelmorph's generators; moving and fixed subjects always differ.

    Shapes are static, because ``fit`` needs them when the model integrates a velocity: batches of
    a plain Python generator have no known shape, and voxelmorph's rescaling layer then fails.

    Parameters
    ----------
    cohort : Cohort
        Cohort, whose ``image(id)`` is float32 in [0, 1] on the grid ``cohort.shape``.
    ids : sequence of str
        Subjects to draw from, without duplicates: at least two, or at least one with an atlas.
    batch_size : int
        Number of pairs per step.
    seed : int
        Seed of the draws, at least 0.
    field_shape : tuple of int, optional
        Grid of the zero target, from :func:`vxmlib.models.field_shape`. By default, the image
        grid. The loss does not read the values of this target.
    start_step : int
        Step of the first batch, for resuming a run.
    prefetch : int
        Number of batches prepared in advance.
    atlas : array, (*vol), optional
        Image in [0, 1] that is the fixed image of every pair (scan to atlas, as in the paper).
    bidir : bool
        Whether to add the moving image to the targets, which are then
        ``(fixed, moving, zero_field)``, for a model that is built with ``bidir``.
    augment : callable, optional
        Function that changes each image that is drawn: ``augment(image, generator,
        cohort.affine)``, for example a :class:`vxmlib.augment.Augmentation`. The atlas is not
        changed.
    both_ways : bool
        Whether each pair is followed in its batch by the reverse pair of the same (augmented)
        images. ``batch_size`` must then be even, and no atlas is allowed.

    Returns
    -------
    tf.data.Dataset
        Infinite dataset of ``((moving, fixed), (fixed, zero_field))``: images are float32
        ``(batch_size, *vol, 1)``, the zero field is ``(batch_size, *field_shape, nd)``.

    Raises
    ------
    ValueError
        If an image has another grid, is constant, is not finite or is outside [0, 1]; or if there
        are too few subjects, a duplicate, or an invalid option. All images are checked before the
        first batch.
    """
    batch_size = check_whole("batch_size", batch_size, least=1)
    seed = check_whole("seed", seed)
    start_step = check_whole("start_step", start_step)
    ids = list(ids)
    if len(set(ids)) < len(ids):
        raise ValueError(
            f"ids: found {sorted({i for i in ids if ids.count(i) > 1})} more than once, expected "
            "each subject once; otherwise a pair could contain the same image twice"
        )
    images = [_usable_image(cohort, i) for i in ids]
    if atlas is not None:
        images.append(check_image_on_grid(atlas, name="atlas", shape=cohort.shape))
    if len(images) < 2:
        raise ValueError(
            f"ids: found {ids}, expected at least two subjects, or one subject and an atlas"
        )
    if both_ways and (batch_size % 2 or atlas is not None):
        raise ValueError(
            f"both_ways: found batch_size={batch_size}{', an atlas' * (atlas is not None)}; "
            "expected an even batch_size and no atlas"
        )

    def gather(step):
        places = draw_pairs(
            len(images),
            batch_size // 2 if both_ways else batch_size,
            seed=seed,
            step=int(step),
            to_last=atlas is not None,
        )
        drawn = [[images[i] for i in pair] for pair in places]
        if augment is not None:
            # A separate random stream, so that augmentation does not change which pairs are drawn.
            rng = np.random.default_rng((seed, int(step), 1))
            keep = (False, atlas is not None)
            drawn = [
                [
                    x if kept else augment(x, rng, cohort.affine)
                    for x, kept in zip(pair, keep, strict=True)
                ]
                for pair in drawn
            ]
        if both_ways:
            drawn = [ordered for pair in drawn for ordered in (pair, pair[::-1])]
        return [np.stack(side)[..., None] for side in zip(*drawn, strict=True)]

    steps = tf.data.Dataset.counter(start_step)
    batches = _batches(steps, gather, cohort.shape, batch_size, field_shape, bidir)
    return batches.prefetch(prefetch)


def listed_pairs(cohort, pairs, *, field_shape=None, bidir=False):
    """Make a dataset of the listed pairs in their order, one pair per batch, for validation.

    Parameters
    ----------
    cohort : Cohort
        As for :func:`pair_dataset`.
    pairs : sequence of (moving id, fixed id)
        Pairs, for example from :func:`vxmlib.cohorts.ordered_pairs`.
    field_shape, bidir
        As for :func:`pair_dataset`.

    Returns
    -------
    tf.data.Dataset
        Finite dataset with the same elements as :func:`pair_dataset` with ``batch_size=1``.

    Raises
    ------
    ValueError
        If the list is empty, or an image is invalid as for :func:`pair_dataset`.
    """
    pairs = [tuple(pair) for pair in pairs]
    if not pairs:
        raise ValueError("pairs: found none, expected at least one (moving, fixed) pair")
    ids = sorted({i for pair in pairs for i in pair})
    images = [_usable_image(cohort, i) for i in ids]
    place = np.array([[ids.index(m), ids.index(f)] for m, f in pairs])

    def gather(step):
        return [images[i][None, ..., None] for i in place[step]]

    steps = tf.data.Dataset.range(len(pairs))
    batches = _batches(steps, gather, cohort.shape, 1, field_shape, bidir)
    return batches.apply(tf.data.experimental.assert_cardinality(len(pairs))).prefetch(1)


def draw_pairs(count, batch_size, *, seed, step, to_last=False):
    """Draw the indices of the moving and fixed images of one step.

    The result depends only on the arguments.

    Parameters
    ----------
    count : int
        Number of images, at least 2.
    batch_size : int
        Number of pairs.
    seed, step : int
        Seed and number of the training step, both at least 0.
    to_last : bool
        Whether the fixed image is always the last one (the atlas), which is then never moving.

    Returns
    -------
    ndarray, (batch_size, 2), int
        One (moving, fixed) pair per row: two different indices from 0 to ``count - 1``.

    Examples
    --------
    >>> bool((draw_pairs(5, 2, seed=0, step=3) == draw_pairs(5, 2, seed=0, step=3)).all())
    True
    >>> draw_pairs(2, 1, seed=0, step=0, to_last=True)
    array([[0, 1]])
    """
    rng = np.random.default_rng((seed, step))
    if to_last:
        moving = rng.integers(count - 1, size=batch_size)
        fixed = np.full(batch_size, count - 1)
    else:
        moving = rng.integers(count, size=batch_size)
        fixed = (moving + rng.integers(1, count, size=batch_size)) % count
    return np.stack([moving, fixed], axis=1)


def _batches(steps, gather, vol, batch_size, field_shape, bidir):
    """Turn step numbers into batches of static shape; ``gather`` returns the images of a step."""
    field_shape = field_shape or vol

    def batch(step):
        moving, fixed = tf.numpy_function(gather, [step], (tf.float32, tf.float32))
        moving = tf.ensure_shape(moving, (batch_size, *vol, 1))
        fixed = tf.ensure_shape(fixed, (batch_size, *vol, 1))
        zero_field = tf.zeros((batch_size, *field_shape, len(vol)))
        targets = (fixed, moving, zero_field) if bidir else (fixed, zero_field)
        return (moving, fixed), targets

    return steps.map(batch)


def _usable_image(cohort, subject):
    return check_image_on_grid(
        cohort.image(subject), name=f"image of {subject}", shape=cohort.shape
    )
