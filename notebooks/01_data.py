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
# # Prepare the data: from a scan to training pairs
#
# | | |
# |---|---|
# | **You will** | turn one scan file into the form that the network needs, and build training pairs |
# | **You will learn** | what a NIfTI header contains, why affine alignment comes first, and which form of training pairs `fit()` expects |
# | **You need** | [VoxelMorph on one page](one_page.ipynb) |
# | **In → out** | scans in their own space → images in [0, 1] on a common grid, label maps, a split by subject, training pairs |
# | **Not here** | skull stripping (the scans are already skull-stripped) and bias-field correction |
# | **Time** | 20 minutes |

# %% [markdown]
# ## Set the parameters
#
# `cohort` names the data set, and `profile` sets how many subjects are used and whether their
# images are 2D or 3D.

# %% tags=["parameters"]
cohort = "mni"
profile = "quick"
seed = 0
root = None

# %%
from vxmlib.experiments import runs
from vxmlib.experiments.settings import read_parameters

settings = read_parameters(globals())

# %% [markdown]
# ## Read the header of one scan
#
# A new scan is in the coordinates of its scanner. The simulated subjects of the default cohort
# `mni` are already on the template's grid, so the helper `examples.scan` makes one of them look
# like a new scan. The helper rotates, scales and shifts the brain, reorders and flips the axes, and
# stores 16-bit integers. The rotation, scale and shift (the *pose*) are known, so the alignment can
# be checked below.

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
# The last line of the output gives the direction in which each array axis runs; for example, P
# means posterior. The array alone does not show which side is left. The affine matrix in the header
# does, because it maps voxel indices to positions in the scanner, in millimetres. In these
# coordinates, *x* increases towards the subject's Right, *y* towards Anterior and *z* towards
# Superior (RAS).
#
# > **Warning: Never trust the order of the array axes**
# >
# > Two files of the same brain can store their axes in different orders and directions. If one
# > subject is mirrored, training raises no error, but the left hippocampus of this subject is
# > compared with the right hippocampus of other subjects.

# %% [markdown]
# ## Reorient the scan
#
# nibabel reorders and flips the axes so that they run to Right, Anterior and Superior. No values
# are interpolated in this step.

# %%
import numpy as np

canonical = nib.as_closest_canonical(scan)
image = np.asarray(canonical.dataobj, dtype="float32")
print(nib.aff2axcodes(canonical.affine), image.shape)

# %% [markdown]
# A wrong orientation is easiest to see in a picture, so the figure shows the middle slice
# along the second array axis, before and after reorientation.

# %% mystnb={"image": {"alt": "Two grey-scale slices of the same scan. The stored slice is in a different plane or mirrored. The reoriented slice is coronal, with the top of the head up."}, "figure": {"caption": "The middle slice along the second array axis, as stored and after reorientation to RAS. The stored axes of the simulated scan run to Posterior, Left and Inferior, so the stored slice is in a different plane from the reoriented slice. Real scans are often only mirrored, which is harder to notice.", "name": "fig-data-orientation"}}
from vxmlib.book import figures

stored = np.asarray(scan.dataobj, dtype="float32")
top = np.percentile(image, 99.5)
pictures, titles = [stored / top, image / top], ["as stored", "reoriented"]
figures.people(pictures, titles, columns=2, side=False);

# %% [markdown]
# ## Align the scan affinely
#
# VoxelMorph performs the *deformable* part of a registration. A classical tool first corrects
# differences in position, rotation, scale and shear. This affine alignment is needed for two
# reasons. First, the image loss compares local windows, so it cannot guide the network if two
# brains are 3 cm apart. Second, the smoothness loss penalises every change of the displacement from
# voxel to voxel, so it penalises even a pure rotation.
#
# ANTs, a classical registration package, estimates the 12 parameters of the affine map. On this
# page, ANTs uses a coarse grid with voxels of 4 mm, which takes a few seconds. For the book's real
# subjects, the matrices were computed at 1 mm.

# %%
from vxmlib.sources import align

matrix = align.affine_to_template(image, canonical.affine, spacing=4.0)
print(np.array2string(matrix, precision=3, suppress_small=True))

# %% [markdown]
# The matrix maps each position in the template, in millimetres, to the corresponding position in
# the scan. The matrix is therefore a [pull](../book/glossary.md#pull), like every map in this book.
# The table compares the scan with the template twice: first after matching only the centres of
# mass, and then after applying the matrix.

# %%
import pandas as pd

quality = pd.DataFrame(align.quality(image, canonical.affine, matrix)).T
quality.index = ["centred", "aligned"]
names = {"mask_dice": "Dice of brain masks", "correlation": "correlation"}
quality.rename(columns=names).round(3)

# %% tags=["remove-input"]
from IPython.display import Markdown

sentence = "This scan is real, so its true matrix is unknown."
if settings.cohort == "mni":
    error = align.displacement_between(matrix, examples.pose()).mean()
    sentence = (
        "The computed matrix and the known pose map each brain voxel to two positions, which are "
        f"{error:.1f} mm apart on average."
    )
Markdown(f"""
The brain masks overlap well even when the scan is only centred, so the correlation of the
intensities is a better check of the alignment.

{sentence}
""")

# %% [markdown]
# For a simulated scan, the distance between the two positions cannot be zero. The subject is also
# *deformed*, and a part of every deformation is affine.

# %% [markdown]
# ## Resample once
#
# Reorientation, alignment and the change of voxel size are all affine maps, so their matrices can
# be multiplied and the image interpolated only *once*. Each further interpolation would blur the
# image. Use linear interpolation for images and nearest-neighbour interpolation for label maps.

# %%
from vxmlib.sources import template

spacing = settings.spacing
resampled = template.resample_to_template(image, canonical.affine, matrix, spacing=spacing)
print(resampled.shape, f"at {spacing} mm, intensities up to {resampled.max():.0f}")

# %% [markdown]
# ## Normalise the intensities
#
# The resampled image still has the intensities of the file, but the network and the losses expect
# intensities in [0, 1]. Divide the image by a high percentile of the brain's intensities, and set
# values above 1 to 1. Do not divide by the maximum, because a single bright vessel would then
# darken the rest of the brain.

# %%
brain = resampled[resampled > 0]
normalised = np.clip(resampled / np.percentile(brain, 99.5), 0, 1)

# %% [markdown]
# `preprocess.normalise` returns the same image, as the next cell confirms. The function also raises
# an error if an image is empty or contains NaN.

# %%
from vxmlib import preprocess

print(np.allclose(normalised, preprocess.normalise(resampled)))

# %% [markdown]
# ## Make the sides divisible by 16
#
# The network halves the grid four times, so the number of voxels along each side has to be a
# multiple of 16. The common grid of this book meets this condition. An image on any other grid can
# be cropped or padded around its centre. The next cell pads an image with unsuitable sides.

# %%
odd = normalised[3:, 5:, 1:]
fitting, offset = preprocess.crop_or_pad(odd)
print(odd.shape, "->", fitting.shape)

# %% [markdown]
# ## Reject images that would break the training
#
# Training on a constant image, or on intensities in the thousands, would raise no error. Therefore,
# `checks.check_image` checks every image of a cohort. To test this function, the next cell makes
# four unsuitable images.

# %%
from vxmlib import checks

broken = {
    "raw intensities": normalised * 800,
    "a hole of NaN": np.where(normalised > 0.9, np.nan, normalised),
    "constant": np.zeros_like(normalised),
    "odd size": normalised[1:],
}

# %% [markdown]
# The function rejects all four images. Each message states the problem and a remedy.

# %%
for name, array in broken.items():
    try:
        checks.check_image(array, name=name)
    except ValueError as error:
        print(error, end="\n\n")

# %% [markdown]
# ## Load all subjects
#
# A cohort contains all subjects in the form described above. In 2D, each subject is represented by
# a coronal slice. `people.image(...)` and `people.labels(...)` return the image and label map of
# one subject. `people.brain(...)` returns the brain mask, which is True where the image is above 0.
# The cohort also contains the names of the structures and the split into training, validation and
# test subjects.

# %%
people = runs.load_cohort(settings)
print(people.shape, people.plane)
print(people.licence)
print(people.credit)

# %% [markdown]
# > **Tip: Your own scans**
# >
# > `cohort="own"` reads the folder `root`. Each scan is a skull-stripped file `NAME.nii.gz`, with a
# > label map `NAME_seg.nii.gz` in the same folder. Names of BIDS, such as `sub-01_T1w.nii.gz` with
# > `sub-01_dseg.nii.gz`, are understood, and `.mgz` files are read, too. An optional file `labels.csv`
# > with rows `number,name` gives the names of the structures. By default, only the centres of mass are
# > matched, so align the scans affinely beforehand, or load them with
# > `cohorts.load("own", root=root, align="affine")`. To register only two scans, see [Register two
# > scans of your own](10_own.ipynb).
#
# Look at images from every data set that you train on. A mirrored subject, an empty slice or a
# label map of the wrong subject can be seen in a minute, but finding such a mistake by debugging
# may take a week.

# %% mystnb={"image": {"alt": "Coronal brain slices of ten subjects in two rows. The ventricles, cortex and outline of the brain differ in size and shape between subjects. Brightness and noise differ between scans."}, "figure": {"caption": "Images of ten training subjects.", "name": "fig-data-subjects"}}
ten = people.split["train"][:10]
figures.people([people.image(k) for k in ten], list(ten));

# %% [markdown]
# Label maps have to match the anatomy. To check this, draw their outlines over the images before
# you measure anything with the label maps.

# %% mystnb={"image": {"alt": "Three brain slices with thin coloured outlines of their labelled structures, which follow the visible borders of ventricles, deep nuclei and cortex."}, "figure": {"caption": "Three training subjects with the outlines of their label maps.", "name": "fig-data-labels"}}
three = ten[:3]
pictures, maps = [people.image(k) for k in three], [people.labels(k) for k in three]
figures.people(pictures, list(three), labels=maps, columns=3);

# %% [markdown]
# ## Split by subjects
#
# The split assigns *subjects*, never slices or pairs, to training, validation or test. If a test
# subject were also used for training, the test would not show how well the network registers new
# subjects.

# %%
for part, ids in people.split.items():
    print(f"{part:10} {len(ids)} subjects")

# %% [markdown]
# Network weights are learned from the training subjects, and the smoothness weight λ is chosen on
# the validation subjects. The final results are measured once on the test subjects, after all
# choices have been made. The real cohort `malf` has a further part named `repeats`. This part
# contains second scans of validation subjects and is never used for training.

# %% [markdown]
# ## Measure the overlap before registration
#
# The baseline for every registration is the overlap of the structures after affine alignment,
# measured by [Dice](../book/glossary.md#dice). This baseline is the Dice of the
# [identity](../book/glossary.md#identity), the displacement that is zero everywhere. The next cell
# computes the baseline for pairs of training subjects.

# %%
from vxmlib import cohorts, metrics

some = cohorts.ordered_pairs(people.split["train"], limit=20, seed=settings.seed)
overlap = metrics.evaluate_pairs(people, some, "identity")
start = metrics.summary(overlap)

# %% tags=["remove-input"]
kind = "simulated" if people.simulated else "real"
Markdown(f"""
For the {kind} subjects, the mean Dice before registration is {start["dice_mean"]:.2f}, averaged
over {len(some)} training pairs and {overlap["label"].nunique()} structures. The journal paper
reports 0.58 after affine alignment, but for real brains in 3D and for other structures
([Balakrishnan et al. 2019](https://doi.org/10.1109/TMI.2019.2897538)).
""")

# %% [markdown]
# ## Make pairs with a generator
#
# The Keras method `fit()` expects elements of the form (inputs, targets):
#
# | Part | Content | Use |
# |---|---|---|
# | inputs | moving image, fixed image | passed to the network |
# | first target | fixed image | compared with the warped image |
# | second target | zeros with the shape of the displacement | required by Keras, but ignored by the smoothness loss |
#
# A Python generator that yields pairs indefinitely is sufficient. Each array has a batch axis at
# the front and a channel axis at the end.

# %%
zeros = np.zeros((1, *people.shape, people.ndim), "float32")


def draw_pairs():
    rng = np.random.default_rng(settings.seed)
    while True:
        ids = rng.choice(people.split["train"], size=2, replace=False)
        moving, fixed = (people.image(subject)[None, ..., None] for subject in ids)
        yield (moving, fixed), (fixed, zeros)

# %% [markdown]
# This page and the following pages import TensorFlow from `vxmlib.backend`. This module checks the
# package versions, selects Keras 2, and restores a function that neurite calls but Python 3.11
# removed. A script without vxmlib, such as the [one-page script](one_page.ipynb), starts with these
# lines instead:
#
# ```python
# # TensorFlow 2.21 with tf-keras, voxelmorph 0.2, neurite 0.2
# import inspect
# import os
#
# os.environ["TF_USE_LEGACY_KERAS"] = "1"
# inspect.getargspec = lambda function: inspect.getfullargspec(function)[:4]
#
# import tensorflow as tf
# import voxelmorph as vxm
# ```
#
# Without `vxmlib`, TensorFlow prints warnings that look like errors, for example "failed call to
# cuInit" on a computer without a GPU and "remapper failed" at the first step. They can be ignored.
#
# TensorFlow cannot know the shapes before the first pair arrives, so the next cell states them in
# the argument `output_signature`. Write the signature with tuples, because `from_generator` does
# not accept lists.

# %%
from vxmlib.backend import tf

image_spec = tf.TensorSpec((1, *people.shape, 1))
field_spec = tf.TensorSpec((1, *people.shape, people.ndim))
signature = (image_spec, image_spec), (image_spec, field_spec)
plain = tf.data.Dataset.from_generator(draw_pairs, output_signature=signature)

# %% [markdown]
# The next cell prints the shapes of the arrays in one element.

# %%
inputs, targets = next(iter(plain))
print("inputs: ", *(tuple(array.shape) for array in inputs))
print("targets:", *(tuple(array.shape) for array in targets))

# %% [markdown]
# > **Warning: A bare generator does not state the shapes**
# >
# > If `fit()` is given a generator without a signature, training works with `int_steps=0`. With
# > `int_steps` above 0 (integration), training fails inside voxelmorph's layers. They need the size
# > of the grid, which is unknown without a signature. voxelmorph's own generators, such as `vxm.generators.scan_to_scan`, have no
# > signature.
#
# %% tags=["remove-input"]
n = len(people.split["train"])
Markdown(f"""
{n} training subjects form {n * (n - 1)} ordered pairs. The order matters because registering A to B
is a different task from registering B to A.
""")

# %% [markdown]
# > **Note: Epochs and steps**
# >
# > Pairs are drawn with replacement, so an epoch does not contain each pair exactly once. It is
# > only the interval between two lines of the log. Therefore, state the length of training in
# > *steps*.

# %% [markdown]
# ## Use a data set that can be resumed
#
# `pairs.pair_dataset` returns a data set of the same form, with three further properties. First,
# every image is checked before the first batch. Second, the shapes are stated. Third, the
# pair of step *k* depends only on the seed and *k*, so a resumed run continues with the same pairs
# as an uninterrupted run. The next cell checks that the elements of the new data set and of `plain`
# have the same form.

# %%
from vxmlib import pairs

train = people.split["train"]
data = pairs.pair_dataset(people, train, batch_size=1, seed=settings.seed)
print(data.element_spec == plain.element_spec)

# %% [markdown]
# The next cell tests the third property by comparing the moving images of two pairs. Steps are
# counted from 0, so a data set that starts at step 5 has to begin with the sixth pair of `data`.

# %%
later = pairs.pair_dataset(people, train, batch_size=1, seed=settings.seed, start_step=5)
sixth, first = next(iter(data.skip(5))), next(iter(later))
print(np.array_equal(sixth[0][0], first[0][0]))

# %% [markdown]
# ## Exercises
#
# **Exercise 1.** Normalise by the maximum instead of the percentile. By how much does the median
# intensity of the brain decrease? A simulated scan has no bright vessels, so the decrease is
# smaller than in a real scan.

# %% tags=["hide-cell"] mystnb={"code_prompt_show": "Solution", "code_prompt_hide": "Solution"}
inside = resampled > 0
print(f"by maximum    {np.median(resampled[inside] / resampled.max()):.2f}")
print(f"by percentile {np.median(normalised[inside]):.2f}")

# %% [markdown]
# **Exercise 2.** Shift a label map by half a voxel with linear interpolation, and round the result.
# How many labels in the rounded map are absent from the original map?

# %% tags=["hide-cell"] mystnb={"code_prompt_show": "Solution", "code_prompt_hide": "Solution"}
from scipy import ndimage

labels = people.labels(ten[0])
halfway = np.rint(ndimage.shift(labels.astype(float), 0.5, order=1)).astype(int)
print(len(np.setdiff1d(halfway, labels)), "invented labels")

# %% [markdown]
# **Exercise 3.** Check that no subject belongs to two parts of the split.

# %% tags=["hide-cell"] mystnb={"code_prompt_show": "Solution", "code_prompt_hide": "Solution"}
everyone = [subject for ids in people.split.values() for subject in ids]
print(len(everyone) == len(set(everyone)))

# %% [markdown]
# ## Summary
#
# - Read the header of each scan, reorient the scan, and look at the result.
# - Align all scans affinely before VoxelMorph. A reproduction has to include this step.
# - Interpolate only once. Use nearest-neighbour interpolation for label maps.
# - Scale intensities to [0, 1], make the sides of the grid divisible by 16, and check each image.
# - Split the data by subject.
# - Supply pairs in the form (inputs, targets), and state their shapes in advance.
#
# **Read on:** In [Build VxmDense](02_model.ipynb), you build the network that is trained on these pairs.
