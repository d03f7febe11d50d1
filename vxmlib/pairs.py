"""Make datasets of training and validation pairs for Keras' ``fit``."""

import numpy as np

from vxmlib import axes, warp
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
    observed=None,
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
    observed : sequence of int, optional
        Labels of the structures whose maps are added to the batches, for a model of
        :func:`vxmlib.models.with_labels`. The label maps get the same random change as the images,
        with nearest-neighbour interpolation, so ``augment`` must be an
        :class:`vxmlib.augment.Augmentation` or None. If it reflects a subject, the labels of left
        and right are exchanged. No atlas is allowed.

    Returns
    -------
    tf.data.Dataset
        Infinite dataset of ``((moving, fixed), (fixed, zero_field))``: images are float32
        ``(batch_size, *vol, 1)``, the zero field is ``(batch_size, *field_shape, nd)``. With
        ``observed``, it is ``((moving, fixed, moving_maps), (fixed, zero_field, fixed_maps))``,
        and the maps, see :func:`label_maps`, are ``(batch_size, *vol / 2, len(observed))``.

    Raises
    ------
    ValueError
        If an image has another grid, is constant, is not finite or is outside [0, 1]; or if there
        are too few subjects, a duplicate, or an invalid option; or if an observed structure is not
        one of the cohort's, or no subject has it, or a subject has no label map, or a structure of
        one side has no partner on the other side by which a reflection could exchange them. All
        subjects are checked before the first batch.
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
    labels = [None] * len(images)
    if observed is not None:
        if atlas is not None:
            raise ValueError(
                "observed: found an atlas, which has no label map; leave one of both out"
            )
        labels = _observed_labels(cohort, ids, observed)
        _check_present(cohort, labels, observed)
        if getattr(augment, "flip", None):
            axes.exchange_sides(labels[0], cohort.structures)  # raises an error without a partner
    subjects = list(zip(images, labels, strict=True))

    def changed(image, label_map, rng):
        """Apply the same random change to an image and to its label map, if it has one."""
        if label_map is None:
            return augment(image, rng, cohort.affine), None
        field, reflected = augment.draw(image.shape, rng, cohort.affine)
        if field is None:
            return image, label_map
        if reflected:
            label_map = axes.exchange_sides(label_map, cohort.structures)
        return warp.warp_image(image, field), warp.warp_labels(label_map, field)

    def gather(step):
        places = draw_pairs(
            len(images),
            batch_size // 2 if both_ways else batch_size,
            seed=seed,
            step=int(step),
            to_last=atlas is not None,
        )
        drawn = [[subjects[i] for i in pair] for pair in places]
        if augment is not None:
            # A separate random stream, so that augmentation does not change which pairs are drawn.
            rng = np.random.default_rng((seed, int(step), 1))
            keep = (False, atlas is not None)
            drawn = [
                [x if kept else changed(*x, rng) for x, kept in zip(pair, keep, strict=True)]
                for pair in drawn
            ]
        if both_ways:
            drawn = [ordered for pair in drawn for ordered in (pair, pair[::-1])]
        return _stacked(drawn, observed)

    steps = tf.data.Dataset.counter(start_step)
    batches = _batches(steps, gather, cohort.shape, batch_size, field_shape, bidir, observed)
    return batches.prefetch(prefetch)


def listed_pairs(cohort, pairs, *, field_shape=None, bidir=False, observed=None):
    """Make a dataset of the listed pairs in their order, one pair per batch, for validation.

    Parameters
    ----------
    cohort : Cohort
        As for :func:`pair_dataset`.
    pairs : sequence of (moving id, fixed id)
        Pairs, for example from :func:`vxmlib.cohorts.ordered_pairs`.
    field_shape, bidir, observed
        As for :func:`pair_dataset`; a structure that none of these subjects has is allowed.

    Returns
    -------
    tf.data.Dataset
        Finite dataset with the same elements as :func:`pair_dataset` with ``batch_size=1``.

    Raises
    ------
    ValueError
        If the list is empty, or a subject is invalid as for :func:`pair_dataset`.
    """
    pairs = [tuple(pair) for pair in pairs]
    if not pairs:
        raise ValueError("pairs: found none, expected at least one (moving, fixed) pair")
    ids = sorted({i for pair in pairs for i in pair})
    images = [_usable_image(cohort, i) for i in ids]
    labels = [None] * len(ids) if observed is None else _observed_labels(cohort, ids, observed)
    subjects = list(zip(images, labels, strict=True))
    place = np.array([[ids.index(m), ids.index(f)] for m, f in pairs])

    def gather(step):
        return _stacked([[subjects[i] for i in place[step]]], observed)

    steps = tf.data.Dataset.range(len(pairs))
    batches = _batches(steps, gather, cohort.shape, 1, field_shape, bidir, observed)
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


def label_maps(labels, observed):
    """Make one map for each observed structure, at half the resolution of the label map.

    As in voxelmorph's ``generators.semisupervised``, every second voxel along each axis is kept.

    Parameters
    ----------
    labels : ndarray, (*vol), int
        Label map.
    observed : sequence of int
        Labels of the structures; all other labels are left out.

    Returns
    -------
    ndarray, (*vol / 2, len(observed)), float32
        1 where the voxel has the label of the channel, otherwise 0. Odd sizes are rounded up.

    Examples
    --------
    >>> label_maps(np.array([[3, 9, 7, 9]]), (7, 3)).tolist()
    [[[0.0, 1.0], [1.0, 0.0]]]
    """
    half = labels[(slice(None, None, 2),) * labels.ndim]
    return (half[..., None] == np.asarray(observed)).astype(np.float32)


def _observed_labels(cohort, ids, observed):
    """Return the label map of each subject, after checking the observed structures."""
    if not len(observed) or len(set(observed)) < len(observed):
        raise ValueError(
            f"observed: found {list(observed)}, expected at least one label, and each only once"
        )
    if unknown := [label for label in observed if label not in cohort.structures]:
        known = ", ".join(f"{label} ({name})" for label, name in cohort.structures.items())
        raise ValueError(
            f"observed: found {', '.join(map(str, unknown))}, which the cohort does not have; "
            f"expected labels of its structures: {known or 'none'}"
        )
    if without := [subject for subject in ids if subject in cohort.unlabelled]:
        raise ValueError(
            f"observed: found {len(without)} of {len(ids)} subjects without a label map "
            f"({', '.join(without)}), expected label maps of all; add them, leave these subjects "
            "out, or train without labels"
        )
    return [cohort.labels(subject) for subject in ids]


def _check_present(cohort, labels, observed):
    """Check that each observed structure occurs in at least one label map."""
    present = set().union(*(np.unique(each).tolist() for each in labels))
    if absent := [label for label in observed if label not in present]:
        listed = ", ".join(f"{label} ({cohort.structures[label]})" for label in absent)
        raise ValueError(
            f"observed: found {listed}, which none of {len(labels)} training subjects has; remove "
            "it from the list"
        )


def _stacked(drawn, observed):
    """Stack pairs of (image, label map): moving and fixed images, then the maps of both."""
    sides = [list(zip(*side, strict=True)) for side in zip(*drawn, strict=True)]
    batch = [np.stack(images)[..., None] for images, _ in sides]
    if observed is not None:
        batch += [np.stack([label_maps(x, observed) for x in labels]) for _, labels in sides]
    return batch


def _batches(steps, gather, vol, batch_size, field_shape, bidir, observed):
    """Turn step numbers into batches of static shape; ``gather`` returns the arrays of a step."""
    field_shape = field_shape or vol
    shapes = [(batch_size, *vol, 1)] * 2
    if observed is not None:
        shapes += [(batch_size, *(-(-size // 2) for size in vol), len(observed))] * 2

    def batch(step):
        arrays = tf.numpy_function(gather, [step], [tf.float32] * len(shapes))
        arrays = [tf.ensure_shape(x, shape) for x, shape in zip(arrays, shapes, strict=True)]
        moving, fixed, *maps = arrays
        zero_field = tf.zeros((batch_size, *field_shape, len(vol)))
        targets = (fixed, moving, zero_field) if bidir else (fixed, zero_field)
        return (moving, fixed, *maps[:1]), (*targets, *maps[1:])

    return steps.map(batch)


def _usable_image(cohort, subject):
    return check_image_on_grid(
        cohort.image(subject), name=f"image of {subject}", shape=cohort.shape
    )
