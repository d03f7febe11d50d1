# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Load, look at, align, normalise and pair the data
#
# | | |
# |---|---|
# | **You will** | take one scan from its file to the form the network needs, then load everyone, and make pairs |
# | **You will learn** | what a NIfTI header says, why affine alignment comes first, and the order of the steps that cannot be swapped |
# | **You need** | [lesson 1](one_page.ipynb) |
# | **In → out** | scans in their own space → images in [0, 1] on one grid, label maps, a split by people, pairs |
# | **Not here** | skull stripping and bias correction: the scans come skull-stripped |
# | **Time** | 30 minutes |

# %% [markdown]
# The parameters of this page, and their check:

# %% tags=["parameters"]
cohort = "mni"
profile = "quick"
seed = 0
root = None

# %%
from vxmlib.experiments import runs
from vxmlib.experiments.settings import read_parameters

settings = read_parameters(globals())
settings

# %% [markdown]
# ## Open one scan and read its header
#
# Scans of the cohort `malf` and your own come from a scanner's coordinate system. The simulated
# people do not, so for them the first part of this lesson puts one in a scanner: turned,
# scaled, shifted, stored with flipped axes as 16-bit integers. What we did to it is known,
# which lets us check the alignment below.

# %%
import nibabel as nib

from vxmlib.book import examples

path = examples.scan(settings, runs.output_folder() / "01_data")
scan = nib.load(path)
print("shape      ", scan.shape)
print("voxel size ", *(f"{mm:.2f}" for mm in scan.header.get_zooms()), "mm")
print("stored as  ", scan.get_data_dtype())
print("axes run to", nib.aff2axcodes(scan.affine))

# %% [markdown]
# The array alone does not say which way is left. The header's affine does: it maps a voxel's
# index to millimetres in the scanner, where *x* runs to the person's Right, *y* to Anterior and
# *z* to Superior.
#
# :::{admonition} Never trust array order
# :class: warning
# Two files of the same brain can store their axes in different order and direction. A network
# that sees one person mirrored learns from it without a complaint, and `Left Hippocampus` is
# compared with the right one.
# :::

# %% [markdown]
# ## Look at it, before and after reorienting
#
# nibabel turns axes so that they run Right, Anterior, Superior. No value is interpolated: axes
# are swapped and flipped, nothing more.

# %%
import numpy as np

canonical = nib.as_closest_canonical(scan)
image = np.asarray(canonical.dataobj, dtype="float32")
print(
    nib.aff2axcodes(canonical.affine),
    image.shape,
    f"{image.min():.0f} to {image.max():.0f}",
)

# %% [markdown]
# A header that is read wrong shows at once in a picture:

# %% mystnb={"image": {"alt": "Two grey-scale slices of the same scan. As stored, the slice is another plane or mirrored; reoriented, it is a coronal slice with the top of the head up."}, "figure": {"caption": "The slice through the middle of the second axis, as stored and after reorienting to RAS. The simulated scan is stored to the Posterior, Left and Inferior, so the same index cuts another plane, upside down. A scan of malf is stored to the Left: merely mirrored, which is harder to notice.", "name": "fig-02-orientation"}}
from vxmlib.book import figures

stored = np.asarray(scan.dataobj, dtype="float32")
top = np.percentile(image, 99.5)
pictures, titles = [stored / top, image / top], ["as stored", "reoriented"]
figures.people(pictures, titles, columns=2, side=False);

# %% [markdown]
# ## Align it affinely
#
# VoxelMorph is the *deformable* part of registration. Shift, turn, scale and shear come before
# it, by a classical tool. Two reasons: the network looks at local windows and cannot see that a
# head is 3 cm away; and Grad charges for every slope, also for a plain rotation.
#
# ANTs finds the 12 numbers. For this page it looks at a coarse template, which takes seconds;
# the stored matrices of the real cohort were computed at 1 mm (`python -m vxmlib.sources.align malf`).

# %%
from vxmlib.sources import align

matrix = align.affine_to_template(image, canonical.affine, spacing=4.0)
print(np.array2string(matrix, precision=3, suppress_small=True))

# %% [markdown]
# The matrix says where in the scan each position of the template is found: a {term}`pull`, like
# every map in this book. Brain masks tell how good it is: their {term}`Dice` with the
# template's, before and after.

# %%
quality = align.quality(image, canonical.affine, matrix)
for when in ("before", "after"):
    rounded = {name: round(value, 3) for name, value in quality[when].items()}
    print(f"{when:6}", rounded)

# %% [markdown]
# For a simulated person the true pose is known, so the error can be said in mm:

# %%
if settings.cohort == "mni":
    error = align.displacement_between(matrix, examples.pose())
    print(
        f"against the known pose: {error.mean():.2f} mm on average over the brain"
    )
else:
    print("A real scan: nobody knows its true matrix.")

# %% [markdown]
# "Before" is the scan merely centred. It looks good already, as two heads always overlap well.
# For the simulated scan the pose is known, and the found matrix can be compared with it; it
# cannot come out exact, because this person is also *deformed*, and some of that is affine.

# %% [markdown]
# ## Resample once, normalise, crop
#
# Orientation, alignment and voxel size are all affine maps. Multiply them and interpolate
# *once*; every further interpolation blurs. Images are interpolated linearly, label maps by
# nearest neighbour.

# %%
from vxmlib import checks, preprocess
from vxmlib.sources import template

spacing = settings.spacing
resampled = template.resample_to_template(
    image, canonical.affine, matrix, spacing=spacing
)
print(
    resampled.shape,
    f"at {spacing} mm, values {resampled.min():.0f} to {resampled.max():.0f}",
)

# %% [markdown]
# Then intensities to [0, 1]: divide by a high percentile of the brain and clip. A maximum would
# do for a clean image, but one bright vessel would then darken the whole brain.

# %%
normalised = preprocess.normalise(resampled)
print(f"{normalised.min():.2f} to {normalised.max():.2f}, {normalised.dtype}")

# %% [markdown]
# Last the size. Four halvings in the network ask for multiples of 16, and the grid we resample
# to is made so. For an image that is not, crop or pad about its centre:

# %%
odd = normalised[3:, 5:, 1:]
fitting, offset = preprocess.crop_or_pad(odd)
print(odd.shape, "->", fitting.shape, "offset", offset)

# %% [markdown]
# ## Let the checks refuse what the network cannot take
#
# The network would train on a constant image or an image in the thousands without a word. These
# checks run whenever a cohort makes an image, and say what is wrong:

# %%
good = normalised
broken = {
    "raw intensities": good * 800,
    "a hole of NaN": np.where(good > 0.9, np.nan, good),
    "constant": np.zeros_like(good),
    "odd size": good[1:],
}

# %% [markdown]
# Each of the four is refused, with the reason:

# %%
for name, array in broken.items():
    try:
        checks.check_image(array, name=name)
    except ValueError as error:
        print(error, end="\n\n")

# %% [markdown]
# ## Load everyone
#
# A cohort does what it needs of the above for each person, and cuts the coronal slice in 2D. It
# has images, label maps, names of the structures, and the split.

# %%
people = runs.load_cohort(settings)
print(people.name, people.shape, people.plane)
print({part: len(ids) for part, ids in people.split.items()})
print(people.licence)
print(people.credit)

# %% mystnb={"image": {"alt": "Ten coronal brain slices of ten people in two rows. Their ventricles, cortex and outlines differ in size and shape; brightness and noise differ from scan to scan."}, "figure": {"caption": "Ten people of the training set.", "name": "fig-02-people"}}
ten = people.split["train"][:10]
figures.people([people.image(k) for k in ten], list(ten));

# %% [markdown]
# Labels belong over the image before anything is measured with them:

# %% mystnb={"image": {"alt": "Three of the brain slices with thin coloured outlines of their labelled structures, which follow the visible borders of ventricles, deep nuclei and cortex."}, "figure": {"caption": "Three of them with the outlines of their label maps.", "name": "fig-02-labels"}}
three = ten[:3]
figures.people(
    [people.image(k) for k in three],
    list(three),
    labels=[people.labels(k) for k in three],
    columns=3,
);

# %% [markdown]
# Look at the pictures of every data set you train on, all of them. Flipped people, empty slices
# and label maps of the neighbour are found in a minute by eye and in a week by debugging.

# %% mystnb={"image": {"alt": "Three histograms of brain intensities for three people; the grey and white matter peaks lie at slightly different places."}, "figure": {"caption": "Intensities in the brain of three people. NCC does not mind that the peaks differ; MSE does.", "name": "fig-02-histogram"}}
figures.histograms([people.image(k) for k in ten[:3]], list(ten[:3]));

# %% [markdown]
# ## How far apart are they?
#
# After affine alignment, before any registration: the overlap that lessons 4 and 5 start from.

# %%
from vxmlib import cohorts, metrics

some = cohorts.ordered_pairs(
    people.split["train"], limit=20, seed=settings.seed
)
overlap = metrics.evaluate_pairs(people, some, "identity")
start = metrics.summary(overlap)
print(
    f"Dice {start['dice_mean']:.3f}, SD over pairs {start['dice_sd_pairs']:.3f}"
)

# %% tags=["remove-cell"]
from vxmlib.book import glue

glue.glue(
    start=start["dice_mean"],
    n_structures=overlap["label"].nunique(),
)

# %% [markdown]
# That is {glue:text}`start:.2f` over {glue:text}`n_structures` structures. For comparison: the
# journal paper starts at 0.58 with real people in 3D {cite}`balakrishnan2019tmi`.

# %% [markdown]
# ## Make pairs
#
# `fit()` wants `((moving, fixed), (fixed, zero field))`, with shapes that are known before the
# first pair arrives. A plain Python generator does not tell its shapes, and with `int_steps >
# 0` voxelmorph's layers crash on that. A `tf.data.Dataset` with a static signature does.

# %%
from vxmlib import pairs

data = pairs.pair_dataset(
    people, people.split["train"], batch_size=2, seed=settings.seed
)
inputs_spec, targets_spec = data.element_spec
for spec in (*inputs_spec, *targets_spec):
    print(tuple(spec.shape), spec.dtype.name)

# %% [markdown]
# The pair of step *k* is a function of the seed and *k*. Two data sets of one seed agree; and
# one that starts at step 5 continues where the other is at its sixth batch. Resuming a training
# relies on this.

# %%
again = pairs.pair_dataset(
    people,
    people.split["train"],
    batch_size=2,
    seed=settings.seed,
    start_step=5,
)
sixth = next(iter(data.skip(5)))[0][0].numpy()
print(np.array_equal(sixth, next(iter(again))[0][0].numpy()))

# %% [markdown]
# ## On your own
#
# **Exercise 1.** Normalise by the maximum instead of the percentile. How dark does the median
# of the brain get?

# %% tags=["hide-cell"] mystnb={"code_prompt_show": "Solution", "code_prompt_hide": "Solution"}
by_maximum = resampled / resampled.max()
inside = resampled > 0
print(f"by maximum    {np.median(by_maximum[inside]):.2f}")
print(f"by percentile {np.median(normalised[inside]):.2f}")

# %% [markdown]
# **Exercise 2.** Resample a label map linearly and count the labels that nobody has.

# %% tags=["hide-cell"] mystnb={"code_prompt_show": "Solution", "code_prompt_hide": "Solution"}
from scipy import ndimage

labels = people.labels(ten[0])
halfway = np.rint(ndimage.shift(labels.astype(float), 0.5, order=1)).astype(int)
print(len(np.setdiff1d(halfway, labels)), "invented labels")

# %% [markdown]
# **Exercise 3.** Check that no person is in two parts of the split.

# %% tags=["hide-cell"] mystnb={"code_prompt_show": "Solution", "code_prompt_hide": "Solution"}
everyone = [k for ids in people.split.values() for k in ids]
print(len(everyone) == len(set(everyone)))

# %% [markdown]
# ## What you take along
#
# - Read the header; reorient; look.
# - Affine alignment comes before VoxelMorph and is part of the reproduction.
# - Interpolate once; labels by nearest neighbour.
# - [0, 1], sizes divisible by 16, checked before training.
# - Split by people; pairs with static shapes.
#
# **Read on:** [lesson 3](02_model.ipynb) builds the network that takes these pairs.
