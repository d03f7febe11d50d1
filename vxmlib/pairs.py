"""Training and validation pairs as a tf.data.Dataset of ((moving, fixed), (fixed, zero field))."""

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
    """Draw random ordered pairs of subjects for ever, each batch a function of (seed, step).

    The batch of step k depends on nothing but ``seed`` and k, so a run that is resumed at step k
    sees the pairs that it would have seen without the interruption. Pairs are drawn with
    replacement, as voxelmorph's generators draw them; moving and fixed always differ.

    Shapes are static. ``fit`` needs that when the model integrates a velocity: what comes from a
    bare Python generator has no known shape, and voxelmorph's rescaling layer then fails.

    Parameters
    ----------
    cohort : Cohort
        Gives ``image(id)``: float32 in [0, 1] on the grid ``cohort.shape``.
    ids : sequence of str
        Subjects to draw from, each named once: at least two, or one with an atlas.
    batch_size : int
        Pairs a step.
    seed : int
        At least 0.
    field_shape : tuple of int, optional
        Grid of the zero target: :func:`vxmlib.models.field_shape` of the model. Default is the
        image grid. The loss does not read its values.
    start_step : int
        First step to give, for resuming.
    prefetch : int
        Batches prepared ahead.
    atlas : array, (*vol), optional
        Image in [0, 1] that then is the fixed one of every pair (scan to atlas, as the paper).
    bidir : bool
        Also ask for the moving image back: targets ``(fixed, moving, zero field)``.
    augment : callable, optional
        Changes each image that is drawn: ``augment(image, generator, cohort.affine)``, for
        example a :class:`vxmlib.augment.Augmentation`. The atlas is left as it is.
    both_ways : bool
        Each pair is followed in its batch by the reverse one, of the same (changed) images;
        ``batch_size`` must then be even.

    Returns
    -------
    tf.data.Dataset
        Infinite, of ``((moving, fixed), (fixed, zero_field))``: images float32
        ``(batch_size, *vol, 1)``, zero field ``(batch_size, *field_shape, nd)``.

    Raises
    ------
    ValueError
        If an image does not fit the grid, is not finite, constant or outside [0, 1], or there
        are too few subjects, or one is named twice; all at once, before the first batch.
    """
    batch_size = check_whole("batch_size", batch_size, least=1)
    seed = check_whole("seed", seed)
    start_step = check_whole("start_step", start_step)
    ids = list(ids)
    if len(set(ids)) < len(ids):
        raise ValueError(
            f"ids: found {sorted({i for i in ids if ids.count(i) > 1})} more than once, expected "
            "each subject once; otherwise a pair may be one image twice"
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
            # Another stream than that of the pairs: these stay the same with and without.
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
    """Give the pairs of a list once each, in order, one a batch: for validation.

    Parameters
    ----------
    cohort : Cohort
    pairs : sequence of (moving id, fixed id)
        As from :func:`vxmlib.cohorts.ordered_pairs`.
    field_shape, bidir
        As in :func:`pair_dataset`.

    Returns
    -------
    tf.data.Dataset
        Finite, same elements as :func:`pair_dataset` with ``batch_size=1``.

    Raises
    ------
    ValueError
        If the list is empty, or an image cannot be used.
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
    """Draw the (moving, fixed) places of one step: a pure function of ``seed`` and ``step``.

    Parameters
    ----------
    count : int
        Number of images, at least 2.
    batch_size, seed, step : int
    to_last : bool
        The fixed image is always the last one (the atlas), and never the moving one.

    Returns
    -------
    ndarray, (batch_size, 2), int
        Two different places below ``count`` a row.

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
    """Turn step numbers into batches of static shape; ``gather`` gives moving and fixed images."""
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
