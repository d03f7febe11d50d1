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
# # Know what to reproduce, and what `fit()` needs from you
#
# | | |
# |---|---|
# | **You will** | meet every part of a VoxelMorph reproduction once, at its smallest size |
# | **You will learn** | what must match the paper, what `fit()` asks of you, and what you can leave to Keras |
# | **You need** | Python; no brain scans, no GPU |
# | **In → out** | nothing → a checklist, the score of doing nothing, and a model after its first steps |
# | **Not here** | convergence: the training on this page only shows the machinery ([lesson 4](03_fit.ipynb) trains) |
# | **Time** | 15 minutes to read |
#
# VoxelMorph {cite}`balakrishnan2019tmi` learns to register two images: it looks at a
# {term}`moving` and a {term}`fixed` image and predicts, for every voxel, where to fetch the
# moving image from so that it looks like the fixed one. No one shows it a correct
# {term}`displacement`. It learns from two numbers that it can compute itself: how alike the
# images are after warping, and how rough the displacement is.

# %% [markdown]
# ## Set the parameters
#
# Every lesson begins with one cell of parameters. Change them here, or from outside: `papermill
# notebooks/one_page.ipynb out.ipynb -p cohort malf`. The second cell checks them, so
# that a mistake costs a second and not a night.

# %% tags=["parameters"]
cohort = "mni"
profile = "quick"
seed = 0
root = None

# %%
from vxmlib.experiments.settings import read_parameters

settings = read_parameters(globals())
settings

# %% [markdown]
# ## Say what must be the same
#
# A reproduction is a claim that can fail: *with the same method, I measure about the same
# thing*. "The same method" has five parts, and each can be got wrong quietly.
#
# | Part | What VoxelMorph fixes | Where we check it |
# |---|---|---|
# | network | a U-Net (`VxmDense`) that outputs a displacement | [lesson 3](02_model.ipynb) |
# | losses | local NCC (or MSE) plus the squared gradient of the displacement | [lesson 3](02_model.ipynb) |
# | hyperparameters | Adam, learning rate, λ, batch size, number of **steps** | [lesson 4](03_fit.ipynb) |
# | data | affine alignment, intensities in [0, 1], sizes divisible by 16, random ordered pairs | [lesson 2](01_data.ipynb) |
# | evaluation | Dice of warped {term}`label maps <label map>`, folding of the field | [lessons 5](04_dice.ipynb) and [6](05_jacobian.ipynb) |
#
# :::{admonition} The same hyperparameters are not enough
# :class: warning
# Recipes on the web copy the network and the learning rate, and stop there. The result hangs at
# least as much on the affine alignment before, on the intensity range, on how many steps are
# taken, and on choosing λ on people that are not the test people.
# :::

# %% [markdown]
# ## Start from a stack that works
#
# `pip install voxelmorph` gives a PyTorch package today. The TensorFlow line, which the papers
# used, is version 0.2, and it needs its matching `neurite` and the old Keras. One module of our
# helper package knows how; everything else imports from there.

# %%
from vxmlib import backend
from vxmlib.backend import tf

backend.versions()

# %% [markdown]
# ## Look at the people
#
# The default cohort is *simulated*: one real template brain, bent in a different way for each
# person. Nothing is downloaded, and the true deformation is known. With `cohort="malf"` the
# same page runs on 30 real people.

# %%
from vxmlib.experiments import runs

people = runs.load_cohort(settings)
print(
    people.shape,
    f"{people.spacing} mm,",
    "simulated" if people.simulated else people.licence,
)
{split: len(ids) for split, ids in people.split.items()}

# %% [markdown]
# The split is made of *people*, never of pairs or slices: a person who was seen in training
# cannot say anything about new people. (`repeats`, where a cohort has them, are second scans of
# validation people; nobody trains on them.)

# %% mystnb={"image": {"alt": "Three grey-scale coronal brain slices: a moving image, a fixed image, and their difference, in which folds of the cortex and the ventricles appear as orange and purple double edges."}, "figure": {"caption": "One test pair before registration. The brains are aligned as wholes; the difference shows that their parts are not.", "name": "fig-01-pair"}}
from vxmlib.book import figures

moving_id, fixed_id = people.split["test"][:2]
moving, fixed = people.image(moving_id), people.image(fixed_id)
figures.pair(moving, fixed);

# %% [markdown]
# ## Score the simplest method first
#
# Before any network: how good is doing nothing? The {term}`Dice` overlap of the same structure
# in both images, averaged over structures, is the number that every later result must beat. A
# Dice without its identity baseline says little.

# %%
from vxmlib import metrics

labels = people.labels(moving_id), people.labels(fixed_id)
identity = metrics.dice(*labels, people.structures)
identity_dice = sum(identity.values()) / len(identity)
print(f"Dice {identity_dice:.3f} over {len(identity)} structures")

# %% tags=["remove-cell"]
from vxmlib.book import glue

glue.glue(
    identity_dice=identity_dice,
    n_structures=len(identity),
)

# %% [markdown]
# Here doing nothing scores {glue:text}`identity_dice:.2f`, the mean over
# {glue:text}`n_structures` structures.

# %% [markdown]
# ## Give `fit()` the first thing it needs: a compiled model
#
# `VxmDense` describes layers. `compile` adds what training needs: an optimiser, one loss for
# each output, and the weights between them. Without it Keras refuses, which is worth seeing
# once:

# %%
from vxmlib.backend import vxm

raw = vxm.networks.VxmDense(people.shape, int_steps=0)
try:
    raw.fit([[moving[None, ..., None]] * 2])
except RuntimeError as error:
    print(error)

# %% [markdown]
# [Lesson 3](02_model.ipynb) opens `build`; here it is enough that it returns a model that is
# ready to train.

# %%
from vxmlib import models

backend.set_seed(settings.seed)
model = models.build(
    people.shape, image_loss="ncc", lam=1.0, learning_rate=settings.learning_rate
)
print(f"{model.count_params():,} parameters")

# %% [markdown]
# ## Give it the second: pairs, in one fixed form
#
# Each element is `(inputs, targets)`:
#
# - **inputs** = (moving, fixed): what the network looks at;
# - **targets** = (fixed, zero field): what each output is compared with. The warped image is
#   compared with the *fixed image*; the displacement with *nothing*, and the zeros stand there
#   only because Keras wants one target for each output.

# %%
from vxmlib import pairs

data = pairs.pair_dataset(
    people, people.split["train"], batch_size=1, seed=settings.seed
)
(batch_moving, batch_fixed), (target_image, target_field) = next(iter(data))
for name in ("batch_moving", "batch_fixed", "target_image", "target_field"):
    print(f"{name:13}", globals()[name].shape)

# %% [markdown]
# The axes are (batch, *grid, channel). An image has one channel; the field has one for
# each axis of space.
#
# :::{admonition} What does the zero field do?
# :class: tip
# Nothing. The smoothness loss ignores its target (you will check this in exercise 2). We use
# zeros of the field's own shape because then the code says what it means.
# :::

# %% [markdown]
# ## Give it the third: a number of steps
#
# Pairs are drawn without end, so Keras cannot know when an epoch is over; `steps_per_epoch`
# says so. The usual rule, data set size divided by batch size, has no force here:

# %%
n = len(people.split["train"])
print(f"{n} people make {n * (n - 1)} ordered pairs")

# %% tags=["remove-cell"]
glue.glue(
    n_train=n,
    n_ordered=n * (n - 1),
)

# %% [markdown]
# From {glue:text}`n_train` people come {glue:text}`n_ordered` ordered pairs, and they are drawn
# with replacement. No epoch ever sees "the data set once". An epoch is simply how often we
# write a line and save the model. **What counts is the number of steps**: the paper took
# 150 000 of one pair each.

# %% [markdown]
# ## Call `fit()` and read what comes back
#
# A few steps, to see the machinery. `verbose=2` prints one line an epoch, the right choice for
# a log file; the default progress bar is for a terminal.

# %%
history = model.fit(data, epochs=2, steps_per_epoch=4, verbose=2)

# %% [markdown]
# `fit` returns a `History`. Its `.history` is a plain dictionary: one list for each loss, one
# number an epoch.

# %%
for name, values in history.history.items():
    print(f"{name:16}", *(f"{value:10.2g}" for value in values))

# %% [markdown]
# The first entry is the total, image loss + λ × smoothness loss; the others are the two terms
# before weighting. The image loss is *negative* because NCC is a similarity and Keras
# minimises. So few steps, each on another pair, may go up as well as down. Over many, a falling
# total says that training works. It does not say that the registration is good: for that there
# are lessons 5 and 6.

# %% [markdown]
# ## Leave the rest alone
#
# | You must understand | You can leave to Keras |
# |---|---|
# | compile before fit | how gradients are computed and applied |
# | `(inputs, targets)` and their shapes | the inner `train_function` |
# | steps, and why an epoch means little | prefetching, devices, batching to the GPU |
# | what the history holds | how callbacks are called |
#
# A training loop of your own is not more honest than `fit()`; it is more code to get wrong, and
# it loses mixed precision, distribution and callbacks unless you write them again. Four needs
# justify one: training that is not plain minimisation (adversarial, curriculum), control of
# single gradients, data that `fit()` cannot take, and looking into the model while it trains.
# Clipping, frozen layers and schedules are *not* among them: `fit()` does those.

# %% [markdown]
# ## Check a reproduction: the list
#
# 1. Versions pinned, and printed with the result.
# 2. Network, losses, λ, learning rate, batch size and **number of steps** stated.
# 3. Scans aligned affinely, in [0, 1], on one grid divisible by 16.
# 4. Split by people; λ chosen on validation people; test people looked at once.
# 5. Identity (after affine) reported on the same pairs.
# 6. Dice: which structures, which rule for absent ones, which spread.
# 7. Folding: count, and share of *what*.
# 8. When it fails: does the loss fall? Is the displacement plausible? Is the input what you
#    think it is?

# %% [markdown]
# ## On your own
#
# **Exercise 1.** The paper's 150 000 steps: how many epochs of the plan's length is that?

# %% tags=["hide-cell"] mystnb={"code_prompt_show": "Solution", "code_prompt_hide": "Solution"}
print(
    f"{150_000 / settings.steps_per_epoch:,.0f} epochs "
    f"of {settings.steps_per_epoch} steps"
)

# %% [markdown]
# **Exercise 2.** Show that the target of the displacement does not matter: evaluate one batch
# with the zero field, and again with ones.

# %% tags=["hide-cell"] mystnb={"code_prompt_show": "Solution", "code_prompt_hide": "Solution"}
inputs = (batch_moving, batch_fixed)
zeros = model.evaluate(inputs, (target_image, target_field), verbose=0)
ones_field = tf.ones_like(target_field)
ones = model.evaluate(inputs, (target_image, ones_field), verbose=0)
print(zeros == ones)

# %% [markdown]
# **Exercise 3.** Is Dice symmetric? Swap moving and fixed in the identity baseline.

# %% tags=["hide-cell"] mystnb={"code_prompt_show": "Solution", "code_prompt_hide": "Solution"}
swapped = metrics.dice(
    people.labels(fixed_id), people.labels(moving_id), people.structures
)
print(swapped == identity)

# %% [markdown]
# ## What you take along
#
# - A reproduction fixes network, losses, hyperparameters, data and evaluation; most failures
#   hide in the last two.
# - `fit()` needs a compiled model, pairs in the form (inputs, targets), and a number of steps.
# - The first number of any evaluation is the identity.
#
# **Read on:** the journal paper {cite}`balakrishnan2019tmi` has the full experiments; the
# conference paper {cite}`balakrishnan2018cvpr` is the shorter way in; SyN {cite}`avants2008syn`
# is the classical method both are measured against.
