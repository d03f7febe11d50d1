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
# | **You will learn** | what a NIfTI header says, why affine alignment comes first, and which form of pairs `fit()` takes |
# | **You need** | [VoxelMorph on one page](one_page.ipynb) |
# | **In → out** | scans in their own space → images in [0, 1] on one grid, label maps, a split by subjects, pairs |
# | **Not here** | skull stripping (the scans come skull-stripped) and bias correction |
# | **Time** | 20 minutes |

# %% [markdown]
# ## Set the parameters
#
# `cohort` names the data set, and `profile` sets how many subjects are used and whether they are
# 2D or 3D.

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
# A scan comes in the coordinates of its scanner. The simulated subjects of the default cohort
# `mni` already lie on the template's grid, so the helper `examples.scan` makes one of them look
# like a new scan. It rotates, scales and shifts the brain, flips the axes, and stores 16-bit
# integers. The rotation, scale and shift (the *pose*) are known, so the alignment can be checked
# below.

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
# The last line gives the direction in which each array axis runs, for example P for Posterior. The
# array alone does not say which side is left. The affine matrix of the header does, because it
# maps the index of a voxel to millimetres in the scanner. There, *x* runs to the subject's Right,
# *y* to Anterior and *z* to Superior (RAS).
#
# > **Warning: Never trust the order of the array axes**
# >
# > Two files of the same brain can store their axes in different orders and directions. A network
# > that sees one subject mirrored trains on it without an error, and the left hippocampus is then
# > compared with the right one.

# %% [markdown]
# ## Reorient the scan
#
# nibabel exchanges and flips the axes so that they run Right, Anterior, Superior. No value is
# interpolated in this step.

# %%
import numpy as np

canonical = nib.as_closest_canonical(scan)
image = np.asarray(canonical.dataobj, dtype="float32")
print(nib.aff2axcodes(canonical.affine), image.shape)

# %% [markdown]
# A wrong orientation is easiest to see in a picture. The figure shows the middle slice along the
# second array axis, before and after reorienting.

# %% mystnb={"image": {"alt": "Two grey-scale slices of the same scan. As stored, the slice is another plane or mirrored; reoriented, it is a coronal slice with the top of the head up."}, "figure": {"caption": "The slice through the middle of the second axis, as stored and after reorienting to RAS. The axes of the simulated scan run to Posterior, Left and Inferior, so its second axis runs in another direction and the slice lies in another plane. A real scan is often only mirrored, which is harder to notice.", "name": "fig-data-orientation"}}
from vxmlib.book import figures

stored = np.asarray(scan.dataobj, dtype="float32")
top = np.percentile(image, 99.5)
pictures, titles = [stored / top, image / top], ["as stored", "reoriented"]
figures.people(pictures, titles, columns=2, side=False);

# %% [markdown]
# ## Align the scan affinely
#
# VoxelMorph is the *deformable* part of a registration. A classical tool removes shift, rotation,
# scale and shear before it. This matters for two reasons. The image loss compares local windows,
# so it cannot guide the network to a brain that lies 3 cm away. The smoothness loss penalises every
# change of the displacement from voxel to voxel, so it penalises even a plain rotation.
#
# ANTs, a classical registration package, finds the 12 numbers of the affine map. This page
# compares the images on a coarse grid of 4 mm, which takes seconds. The matrices of the book's
# real subjects were computed at 1 mm.

# %%
from vxmlib.sources import align

matrix = align.affine_to_template(image, canonical.affine, spacing=4.0)
print(np.array2string(matrix, precision=3, suppress_small=True))

# %% [markdown]
# The matrix maps a position of the template, in millimetres, to the matching position in the scan.
# It is a [pull](../book/glossary.md#pull), like every map in this book. The table compares the
# scan with the template twice. For the first row, only the centres of mass are matched. For the
# second row, the matrix is applied.

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
    sentence = f"The computed matrix and the known pose differ by {error:.1f} mm on average."
Markdown(f"""
{sentence} Two brains overlap well even when they are only centred, so the correlation of the
intensities says more about the alignment than the overlap of the masks.
""")

# %% [markdown]
# For the simulated scan this distance cannot be zero, because the subject is also *deformed*, and
# a part of every deformation is affine.

# %% [markdown]
# ## Resample once
#
# Orientation, alignment and voxel size are all affine maps. Multiply their matrices and
# interpolate *once*, because each further interpolation blurs the image. Interpolate images
# linearly, and label maps with nearest-neighbour interpolation.

# %%
from vxmlib.sources import template

spacing = settings.spacing
resampled = template.resample_to_template(image, canonical.affine, matrix, spacing=spacing)
print(resampled.shape, f"at {spacing} mm, intensities up to {resampled.max():.0f}")

# %% [markdown]
# ## Normalise the intensities
#
# The resampled image still has the intensities of the file, but the network and the losses expect
# intensities from 0 to 1. Divide by a high percentile of the brain, and set values above 1 to 1.
# The maximum is a poor divisor, because one bright vessel would then darken the whole brain.

# %%
brain = resampled[resampled > 0]
normalised = np.clip(resampled / np.percentile(brain, 99.5), 0, 1)

# %% [markdown]
# `preprocess.normalise` does the same, as the next cell checks. It also refuses an image that is
# empty or contains NaN.

# %%
from vxmlib import preprocess

print(np.allclose(normalised, preprocess.normalise(resampled)))

# %% [markdown]
# ## Make the sides divisible by 16
#
# The network halves the grid four times, so every side has to be a multiple of 16. The common grid
# of this book has such sides. Another image can be cropped or padded around its centre. The next
# cell first makes an image with unsuitable sides and then pads it.

# %%
odd = normalised[3:, 5:, 1:]
fitting, offset = preprocess.crop_or_pad(odd)
print(odd.shape, "->", fitting.shape)

# %% [markdown]
# ## Refuse images that break the training
#
# The network would train on a constant image, or on intensities in the thousands, without an
# error. Therefore `checks.check_image` checks every image of a cohort. The next cell makes four
# broken images.

# %%
from vxmlib import checks

broken = {
    "raw intensities": normalised * 800,
    "a hole of NaN": np.where(normalised > 0.9, np.nan, normalised),
    "constant": np.zeros_like(normalised),
    "odd size": normalised[1:],
}

# %% [markdown]
# The check refuses each of them, and its message says what is wrong and how to correct it.

# %%
for name, array in broken.items():
    try:
        checks.check_image(array, name=name)
    except ValueError as error:
        print(error, end="\n\n")

# %% [markdown]
# ## Load all subjects
#
# A cohort holds all subjects in the form described above. In 2D each subject is one coronal slice.
# The cohort contains the images, the label maps, the names of the structures, and the split into
# training, validation and test subjects.

# %%
people = runs.load_cohort(settings)
print(people.shape, people.plane)
print(people.licence)
print(people.credit)

# %% [markdown]
# > **Tip: Your own scans**
# >
# > `cohort="own"` reads the folder that `root` names. Each scan is a skull-stripped file
# > `NAME.nii.gz`, with a label map `NAME_seg.nii.gz` beside it. An optional file `labels.csv` with
# > rows `number,name` names the structures. By default this cohort only matches the centres of mass,
# > so align the scans affinely first, or load them with
# > `cohorts.load("own", root=root, align="affine")`.
#
# Look at the pictures of every data set that you train on. A mirrored subject, an empty slice or
# the label map of another subject is found in a minute by eye, but may take a week to find by
# debugging.

# %% mystnb={"image": {"alt": "Ten coronal brain slices of ten subjects in two rows. Their ventricles, cortex and outlines differ in size and shape; brightness and noise differ from scan to scan."}, "figure": {"caption": "Ten subjects of the training set.", "name": "fig-data-subjects"}}
ten = people.split["train"][:10]
figures.people([people.image(k) for k in ten], list(ten));

# %% [markdown]
# The labels have to follow the anatomy, so draw them over the image before you measure anything
# with them.

# %% mystnb={"image": {"alt": "Three brain slices with thin coloured outlines of their labelled structures, which follow the visible borders of ventricles, deep nuclei and cortex."}, "figure": {"caption": "Three training subjects with the outlines of their label maps.", "name": "fig-data-labels"}}
three = ten[:3]
pictures, maps = [people.image(k) for k in three], [people.labels(k) for k in three]
figures.people(pictures, list(three), labels=maps, columns=3);

# %% [markdown]
# ## Split by subjects
#
# The split assigns *subjects* to training, validation and test, never slices or pairs. If one
# subject occurred in two parts, the test would no longer show what happens with new subjects.

# %%
for part, ids in people.split.items():
    print(f"{part:10} {len(ids)} subjects")

# %% [markdown]
# Network weights are learned from the training subjects, and λ is chosen on the validation
# subjects. The test subjects are used once, at the end. The real cohort `malf` has a further
# part named `repeats`, which holds second scans of validation subjects and is never used for
# training.

# %% [markdown]
# ## Measure the overlap before registration
#
# The overlap of the structures after affine alignment, measured by
# [Dice](../book/glossary.md#dice), is the value that every registration has to raise. It is the
# score of the [identity](../book/glossary.md#identity), the displacement that moves nothing. The
# next cell measures it on pairs of training subjects.

# %%
from vxmlib import cohorts, metrics

some = cohorts.ordered_pairs(people.split["train"], limit=20, seed=settings.seed)
overlap = metrics.evaluate_pairs(people, some, "identity")
start = metrics.summary(overlap)

# %% tags=["remove-input"]
kind = "simulated" if people.simulated else "real"
Markdown(f"""
The mean Dice of {len(some)} training pairs is {start["dice_mean"]:.2f}. It is the mean over
{overlap["label"].nunique()} structures of {kind} subjects. For comparison, the journal paper starts
at 0.58 with real brains in 3D and with other structures
([Balakrishnan et al. 2019](https://doi.org/10.1109/TMI.2019.2897538)).
""")

# %% [markdown]
# ## Make pairs with a generator
#
# Keras' `fit()` takes elements of the form (inputs, targets):
#
# | Part | Content | Use |
# |---|---|---|
# | inputs | moving image, fixed image | what the network sees |
# | first target | fixed image | compared with the warped image |
# | second target | zeros with the shape of the displacement | required by Keras, never read by the loss |
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
# TensorFlow cannot know the shapes before the first pair arrives, so `output_signature` states
# them. Write the signature with tuples, because `from_generator` refuses lists.

# %%
from vxmlib.backend import tf

image_spec = tf.TensorSpec((1, *people.shape, 1))
field_spec = tf.TensorSpec((1, *people.shape, people.ndim))
signature = (image_spec, image_spec), (image_spec, field_spec)
plain = tf.data.Dataset.from_generator(draw_pairs, output_signature=signature)

# %% [markdown]
# The next cell draws one element and prints its shapes.

# %%
inputs, targets = next(iter(plain))
print("inputs: ", *(tuple(array.shape) for array in inputs))
print("targets:", *(tuple(array.shape) for array in targets))

# %% [markdown]
# > **Warning: A bare generator has no shapes**
# >
# > Without the signature, training with `int_steps=0` works. With `int_steps` above 0 it fails
# > inside voxelmorph's layers, because they need the size of the grid. voxelmorph's own generators
# > (`vxm.generators.scan_to_scan`) are bare generators of this kind.
#
# %% tags=["remove-input"]
n = len(people.split["train"])
Markdown(f"""
{n} training subjects make {n * (n - 1)} ordered pairs. They are ordered because registering A to B
is a different task from registering B to A.
""")

# %% [markdown]
# > **Note: Epochs and steps**
# >
# > Pairs are drawn with replacement, so an epoch does not contain each pair exactly once. An epoch
# > only says how often Keras writes a line to the log. The number of *steps* says how long a
# > network was trained.

# %% [markdown]
# ## Use pairs that can be resumed
#
# `pairs.pair_dataset` returns the same kind of data set and adds three things. It checks every
# image before the first batch. It states the shapes itself. It computes the pair of step *k* from
# the seed and *k* alone, so a training that was interrupted continues with the same pairs as one
# without interruption. The next cell checks that its elements have the same form as those above.

# %%
from vxmlib import pairs

train = people.split["train"]
data = pairs.pair_dataset(people, train, batch_size=1, seed=settings.seed)
print(data.element_spec == plain.element_spec)

# %% [markdown]
# The next cell tests the last property. A data set that starts at step 5 has to begin with the
# sixth pair of the first data set, because steps are counted from 0.

# %%
later = pairs.pair_dataset(people, train, batch_size=1, seed=settings.seed, start_step=5)
sixth, first = next(iter(data.skip(5))), next(iter(later))
print(np.array_equal(sixth[0][0], first[0][0]))

# %% [markdown]
# ## Exercises
#
# **Exercise 1.** Normalise by the maximum instead of the percentile. How much darker does the
# median of the brain become? A simulated scan has no bright vessels, so the difference is smaller
# than in a real scan.

# %% tags=["hide-cell"] mystnb={"code_prompt_show": "Solution", "code_prompt_hide": "Solution"}
inside = resampled > 0
print(f"by maximum    {np.median(resampled[inside] / resampled.max()):.2f}")
print(f"by percentile {np.median(normalised[inside]):.2f}")

# %% [markdown]
# **Exercise 2.** Shift a label map by half a voxel with linear interpolation, and round the
# result. Count the labels that the map did not contain before.

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
# - Read the header, reorient the scan, and look at it.
# - Affine alignment comes before VoxelMorph and is a part of the reproduction.
# - Interpolate only once. Use nearest-neighbour interpolation for label maps.
# - Images lie in [0, 1] on a grid whose sides are divisible by 16, and each image is checked.
# - The split is made by subjects.
# - Pairs have the form (inputs, targets) and shapes that are known in advance.
#
# **Read on:** [Build VxmDense](02_model.ipynb) builds the network that takes these pairs.
