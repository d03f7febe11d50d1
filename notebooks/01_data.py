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
# | **You will learn** | what a NIfTI header says, why affine alignment comes first, and which form of training pairs `fit()` expects |
# | **You need** | [VoxelMorph on one page](one_page.ipynb) |
# | **In → out** | scans in their own space → images in [0, 1] on one grid, label maps, a split by subject, pairs |
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
# `mni` already lie on the template's grid, so the helper `examples.scan` makes one of them look
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
# The last line of the output gives the direction in which each array axis runs, for example P for
# posterior. The array alone does not show which side is left. The affine matrix in the header does,
# because it maps voxel indices to positions in the scanner, in millimetres. In these coordinates,
# *x* runs to the subject's Right, *y* to Anterior and *z* to Superior (RAS).
#
# > **Warning: Never trust the order of the array axes**
# >
# > Two files of the same brain can store their axes in different orders and directions. If one
# > subject is mirrored, training raises no error, but the left hippocampus of this subject is
# > compared with the right hippocampus of the others.

# %% [markdown]
# ## Reorient the scan
#
# nibabel reorders and flips the axes so that they run to Right, Anterior and Superior. This step
# interpolates no values.

# %%
import numpy as np

canonical = nib.as_closest_canonical(scan)
image = np.asarray(canonical.dataobj, dtype="float32")
print(nib.aff2axcodes(canonical.affine), image.shape)

# %% [markdown]
# A wrong orientation is easiest to see in a picture, so the figure shows the middle slice along the
# second array axis, before and after reorientation.

# %% mystnb={"image": {"alt": "Two grey-scale slices of the same scan. As stored, the slice lies in another plane or is mirrored. After reorientation, it is a coronal slice with the top of the head up."}, "figure": {"caption": "The middle slice along the second array axis, as stored and after reorientation to RAS. The stored axes of the simulated scan run to Posterior, Left and Inferior, so the stored slice lies in a different plane from the reoriented slice. A real scan is often only mirrored, which is harder to notice.", "name": "fig-data-orientation"}}
from vxmlib.book import figures

stored = np.asarray(scan.dataobj, dtype="float32")
top = np.percentile(image, 99.5)
pictures, titles = [stored / top, image / top], ["as stored", "reoriented"]
figures.people(pictures, titles, columns=2, side=False);

# %% [markdown]
# ## Align the scan affinely
#
# VoxelMorph performs the *deformable* part of a registration. A classical tool first removes shift,
# rotation, scale and shear. This affine alignment is needed for two reasons. First, the image loss
# compares local windows, so it cannot guide the network to a brain that lies 3 cm away. Second, the
# smoothness loss penalises every change of the displacement from voxel to voxel, so it penalises
# even a plain rotation.
#
# ANTs, a classical registration package, estimates the 12 parameters of the affine map. On this
# page, ANTs compares the images on a coarse grid of 4 mm, which takes a few seconds. The matrices
# of the book's real subjects were computed at 1 mm.

# %%
from vxmlib.sources import align

matrix = align.affine_to_template(image, canonical.affine, spacing=4.0)
print(np.array2string(matrix, precision=3, suppress_small=True))

# %% [markdown]
# The matrix maps each position in the template, in millimetres, to the corresponding position in
# the scan. It is therefore a [pull](../book/glossary.md#pull), like every map in this book. The
# table compares the scan with the template twice: first with only the centres of mass matched, and
# then with the matrix applied.

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
        "The computed matrix and the known pose map a brain voxel to positions "
        f"{error:.1f} mm apart on average."
    )
Markdown(f"""
{sentence} Two brain masks overlap well even when they are only centred, so the correlation of the
intensities says more about the alignment than the overlap of the masks does.
""")

# %% [markdown]
# The distance between these two positions cannot be zero for the simulated scan, because the
# subject is also *deformed*, and a part of every deformation is affine.

# %% [markdown]
# ## Resample once
#
# Reorientation, alignment and the change of voxel size are all affine maps, so multiply their
# matrices and interpolate *once*. Each further interpolation blurs the image. Use linear
# interpolation for images and nearest-neighbour interpolation for label maps.

# %%
from vxmlib.sources import template

spacing = settings.spacing
resampled = template.resample_to_template(image, canonical.affine, matrix, spacing=spacing)
print(resampled.shape, f"at {spacing} mm, intensities up to {resampled.max():.0f}")

# %% [markdown]
# ## Normalise the intensities
#
# The resampled image still has the intensities of the file, but the network and the losses expect
# intensities from 0 to 1. Divide the image by a high percentile of the brain's intensities, and set
# values above 1 to 1. The maximum is a poor divisor, because one bright vessel would then darken
# the rest of the brain.

# %%
brain = resampled[resampled > 0]
normalised = np.clip(resampled / np.percentile(brain, 99.5), 0, 1)

# %% [markdown]
# `preprocess.normalise` computes the same image, as the next cell confirms. The function also
# refuses images that are empty or contain NaN.

# %%
from vxmlib import preprocess

print(np.allclose(normalised, preprocess.normalise(resampled)))

# %% [markdown]
# ## Make the sides divisible by 16
#
# The network halves the grid four times, so every side has to be a multiple of 16. The common grid
# of this book has such sides. An image on another grid can be cropped or padded around its centre.
# The next cell makes an image with unsuitable sides and pads it.

# %%
odd = normalised[3:, 5:, 1:]
fitting, offset = preprocess.crop_or_pad(odd)
print(odd.shape, "->", fitting.shape)

# %% [markdown]
# ## Refuse images that break the training
#
# The network would train on a constant image, or on intensities in the thousands, without an error.
# Therefore `checks.check_image` checks every image of a cohort. To test this check, the next cell
# makes four broken images.

# %%
from vxmlib import checks

broken = {
    "raw intensities": normalised * 800,
    "a hole of NaN": np.where(normalised > 0.9, np.nan, normalised),
    "constant": np.zeros_like(normalised),
    "odd size": normalised[1:],
}

# %% [markdown]
# The check refuses all four images. Each message says what is wrong and how to correct it.

# %%
for name, array in broken.items():
    try:
        checks.check_image(array, name=name)
    except ValueError as error:
        print(error, end="\n\n")

# %% [markdown]
# ## Load all subjects
#
# A cohort contains all subjects in the form described above. In 2D, each subject is one coronal
# slice. `people.image(...)` and `people.labels(...)` return the image and label map of one subject.
# `people.brain(...)` returns the brain mask, which is True where the image is above 0. The cohort
# also contains the names of the structures and the split into training, validation and test
# subjects.

# %%
people = runs.load_cohort(settings)
print(people.shape, people.plane)
print(people.licence)
print(people.credit)

# %% [markdown]
# > **Tip: Your own scans**
# >
# > `cohort="own"` reads the folder `root`. Each scan is a skull-stripped file `NAME.nii.gz`, with a
# > label map `NAME_seg.nii.gz` beside it. An optional file `labels.csv` with rows `number,name`
# > gives the names of the structures. By default, loading this cohort only matches the centres of
# > mass, so align the scans affinely first, or load them with
# > `cohorts.load("own", root=root, align="affine")`.
#
# Look at images from every data set that you train on. A mirrored subject, an empty slice or the
# label map of another subject can be found by eye in a minute, but finding it by debugging may take
# a week.

# %% mystnb={"image": {"alt": "Coronal brain slices of ten subjects in two rows. The ventricles, cortex and outline of the brain differ in size and shape between subjects. Brightness and noise differ between scans."}, "figure": {"caption": "Ten of the training subjects.", "name": "fig-data-subjects"}}
ten = people.split["train"][:10]
figures.people([people.image(k) for k in ten], list(ten));

# %% [markdown]
# Label maps have to follow the anatomy, so draw their outlines over the images before you measure
# anything with them.

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
# the validation subjects. The test subjects are used once, at the end. The real cohort `malf` has a
# further part named `repeats`, which contains second scans of validation subjects and is never used
# for training.

# %% [markdown]
# ## Measure the overlap before registration
#
# The overlap of the structures after affine alignment, measured by
# [Dice](../book/glossary.md#dice), is the baseline that every registration has to exceed. This
# baseline is the Dice of the [identity](../book/glossary.md#identity), the displacement that moves
# nothing. The next cell computes this baseline for pairs of training subjects.

# %%
from vxmlib import cohorts, metrics

some = cohorts.ordered_pairs(people.split["train"], limit=20, seed=settings.seed)
overlap = metrics.evaluate_pairs(people, some, "identity")
start = metrics.summary(overlap)

# %% tags=["remove-input"]
kind = "simulated" if people.simulated else "real"
Markdown(f"""
Before registration, the mean Dice of {len(some)} training pairs is {start["dice_mean"]:.2f}. It is
averaged over {overlap["label"].nunique()} structures of {kind} subjects. For comparison, the
journal paper reports 0.58 after affine alignment, for real brains in 3D and for other structures
([Balakrishnan et al. 2019](https://doi.org/10.1109/TMI.2019.2897538)).
""")

# %% [markdown]
# ## Make pairs with a generator
#
# The Keras method `fit()` takes elements of the form (inputs, targets):
#
# | Part | Content | Use |
# |---|---|---|
# | inputs | moving image, fixed image | seen by the network |
# | first target | fixed image | compared with the warped image |
# | second target | zeros with the shape of the displacement | required by Keras, but never read by the loss |
#
# A Python generator that draws pairs without end is sufficient. Each array has a batch axis in
# front and a channel axis at the end.

# %%
zeros = np.zeros((1, *people.shape, people.ndim), "float32")


def draw_pairs():
    rng = np.random.default_rng(settings.seed)
    while True:
        ids = rng.choice(people.split["train"], size=2, replace=False)
        moving, fixed = (people.image(subject)[None, ..., None] for subject in ids)
        yield (moving, fixed), (fixed, zeros)

# %% [markdown]
# The next cell imports TensorFlow from `vxmlib.backend`, as the following pages do. This module
# checks the package versions, selects Keras 2, and supplies a function that neurite calls and
# Python 3.11 removed. A script without vxmlib, such as the [one-page script](one_page.ipynb),
# starts with these lines instead:
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
# TensorFlow cannot know the shapes before the first pair arrives, so the argument
# `output_signature` states them. Write the signature with tuples, because `from_generator` refuses
# lists.

# %%
from vxmlib.backend import tf

image_spec = tf.TensorSpec((1, *people.shape, 1))
field_spec = tf.TensorSpec((1, *people.shape, people.ndim))
signature = (image_spec, image_spec), (image_spec, field_spec)
plain = tf.data.Dataset.from_generator(draw_pairs, output_signature=signature)

# %% [markdown]
# The next cell draws one element and prints the shapes of its arrays.

# %%
inputs, targets = next(iter(plain))
print("inputs: ", *(tuple(array.shape) for array in inputs))
print("targets:", *(tuple(array.shape) for array in targets))

# %% [markdown]
# > **Warning: A bare generator has no shapes**
# >
# > If `fit()` gets a generator without a signature, training works with `int_steps=0`. With
# > `int_steps` above 0 (integration), training fails inside voxelmorph's layers, which need the
# > size of the grid. voxelmorph's generators, such as `vxm.generators.scan_to_scan`, are bare
# > generators.
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
# > Pairs are drawn with replacement, so an epoch does not contain each pair exactly once. An epoch
# > is only the interval between two lines of the log. The number of *steps* says how long a network
# > was trained.

# %% [markdown]
# ## Use pairs that can be resumed
#
# `pairs.pair_dataset` returns the same kind of data set and adds three properties. First, it checks
# every image before the first batch. Second, it states the shapes itself. Third, it computes the
# pair of step *k* from the seed and *k* alone, so a resumed run continues with the same pairs as an
# uninterrupted run. The next cell checks that the elements of `data` and `plain` have the same
# form.

# %%
from vxmlib import pairs

train = people.split["train"]
data = pairs.pair_dataset(people, train, batch_size=1, seed=settings.seed)
print(data.element_spec == plain.element_spec)

# %% [markdown]
# The next cell tests the third property on the moving images of two pairs. Steps are counted from
# 0, so a data set that starts at step 5 has to begin with the sixth pair of `data`.

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
# How many labels does the result contain that are absent from the original map?

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
# - Affine alignment comes before VoxelMorph and is a part of the reproduction.
# - Interpolate only once. Use nearest-neighbour interpolation for label maps.
# - Intensities are in [0, 1], the sides of the grid are divisible by 16, and each image is checked.
# - The data are split by subject.
# - Pairs have the form (inputs, targets), and their shapes are known in advance.
#
# **Read on:** In [Build VxmDense](02_model.ipynb), you build the network that takes these pairs.
