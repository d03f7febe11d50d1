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
# # Estimate time and memory
#
# | | |
# |---|---|
# | **You will** | read how long each lesson of this build took, time a training step, and estimate training time at full size |
# | **You will learn** | what needs most time and memory, and how several devices and half precision change training |
# | **You need** | [Compile and fit](03_fit.ipynb) |
# | **In → out** | the recorded time and memory of the lessons, and short measurements → tables of time and memory |
# | **Not here** | the time to register one pair, which is compared between methods in [Real brains](08_real.ipynb) |
# | **Time** | 10 minutes |

# %% [markdown]
# ## Set the parameters
#
# This page measures only time, memory and precision, so it needs no trained model.

# %% tags=["parameters"]
cohort = "mni"
profile = "quick"
seed = 0
root = None

# %% [markdown]
# TensorFlow accepts some settings only before it uses a device, so the next cell chooses them now.
# It turns on memory growth, because TensorFlow otherwise reserves all the memory of a GPU. It also
# splits the CPU into two logical devices for [Several devices](#several-devices).

# %%
from vxmlib.backend import device_summary, set_seed, tf, versions, vxm
from vxmlib.experiments.settings import read_parameters

for gpu in tf.config.list_physical_devices("GPU"):
    tf.config.experimental.set_memory_growth(gpu, True)
processor = tf.config.list_physical_devices("CPU")[0]
two = [tf.config.LogicalDeviceConfiguration()] * 2
tf.config.set_logical_device_configuration(processor, two)

settings = read_parameters(globals())
print(device_summary())

# %% [markdown]
# ## Read the time and memory of each lesson
#
# The build records the running time of each lesson and the peak memory of its Python process. The
# next cell collects these records.

# %%
import json

import pandas as pd

from vxmlib.book.claims import LESSONS
from vxmlib.experiments import runs

paths = {name: runs.output_folder() / name / "cost.json" for name in LESSONS}
costs = {LESSONS[k]: json.loads(p.read_text()) for k, p in paths.items() if p.exists()}
costs = pd.DataFrame(costs, index=["seconds", "peak_gb", "threads"]).T

# %% [markdown]
# The next table has one row for each lesson that this build executed.

# %%
table = pd.DataFrame(index=pd.Index(costs.index, name="lesson"))
table["seconds"] = costs["seconds"].round().astype(int)
table["GB"] = costs["peak_gb"].astype(float).round(1)
table["cores"] = costs["threads"].astype(int)
table

# %% tags=["remove-cell"]
from vxmlib import records

grid_folder = runs.output_folder().parents[1] / "lambda"
grid_runs = sorted(grid_folder.glob(f"*-{settings.cohort}-{settings.profile}/*.json"))
grid_seconds = [records.read(path)["seconds"] for path in grid_runs]
grid_text = "This build did not train the λ grid."
if grid_seconds:
    grid_text = f"The {len(grid_seconds)} training runs of the λ grid, which are not in the table, "
    grid_text += f"took {sum(grid_seconds) / 60:.0f} minutes in total."

# %% tags=["remove-input"]
from IPython.display import Markdown

largest = table["GB"].idxmax() if len(table) else "no lesson"
Markdown(f"""
Together, the {len(table)} lessons took {table["seconds"].sum() / 60:.0f} minutes. The lesson with
the highest peak memory is "{largest}", with {table["GB"].max():.1f} GB. {grid_text}
""")

# %% [markdown]
# If the training run of a lesson is already finished, the lesson loads the trained network instead
# of training again. The time of such a lesson therefore does not include training. In a new output
# folder, every lesson trains the networks it needs, so all times include training.
#
# ## Time a training step
#
# A training run takes approximately the number of steps times the time of one step, so it is
# sufficient to measure one step. The next cell compiles voxelmorph's own network with voxelmorph's
# own losses. The grid has the size of a brain scan at 2 mm, except in the profile `smoke`, which
# uses a smaller grid.

# %%
grid = (48, 64, 48) if settings.profile == "smoke" else (80, 96, 80)
stock = vxm.networks.VxmDense(grid, int_steps=0)
stock_losses = [vxm.losses.NCC().loss, vxm.losses.Grad("l2").loss]
stock.compile(tf.keras.optimizers.Adam(1e-4), loss=stock_losses, loss_weights=[1, 1])

# %% [markdown]
# The time of a step does not depend on the content of the images, so random images are sufficient.
# The callback `Clock` records when each step ends. Its method `seconds` returns the median time
# from the end of one step to the end of the next, so the slow first step is not counted.

# %%
import numpy as np

from vxmlib.methods import loops

rng = np.random.default_rng(seed)
moving, fixed = rng.random((2, 1, *grid, 1), dtype="float32")
no_displacement = np.zeros((1, *grid, 3), "float32")


def step_seconds(model, steps=3):
    clock = loops.Clock()
    data = [moving, fixed], [fixed, no_displacement]
    model.fit(*data, batch_size=1, epochs=steps, callbacks=[clock], verbose=0)
    return clock.seconds()


# %% [markdown]
# The function `models.build` compiles the same network with our NCC, which computes the same value
# as voxelmorph's NCC in less time. The function can also build the strided U-Net of the [2018
# paper](https://doi.org/10.1109/CVPR.2018.00964). The next cell times three combinations of
# network and loss. They take turns, so that other programs on the machine slow all three alike.

# %%
from vxmlib import models
from vxmlib.networks.strided import StridedVxmDense

strided = models.build(grid, network=StridedVxmDense, features="vxm1")
timed = {
    "VxmDense, voxelmorph's NCC": stock,
    "VxmDense, our NCC": models.build(grid),
    "strided U-Net, our NCC": strided,
}
turns = [{name: step_seconds(model) for name, model in timed.items()} for _ in range(3)]
seconds = pd.DataFrame(turns).median()

# %% [markdown]
# The second column of the next table gives the estimated training time for 3000 steps, as in [Real
# brains](08_real.ipynb).

# %%
steps = pd.DataFrame({"seconds per step": seconds.round(2)})
steps["hours for 3000 steps"] = (seconds * 3000 / 3600).round(1)
steps.rename_axis("network, loss")

# %% tags=["remove-input"]
voxelmorph_step, our_step, strided_step = seconds
Markdown(f"""
A step of VxmDense takes {voxelmorph_step / our_step:.1f} times as long with voxelmorph's NCC as
with ours. With our NCC, a step of VxmDense takes {our_step / strided_step:.1f} times as long as a
step of the strided U-Net, because VxmDense has more convolutions at full resolution. Other
programs on the machine can lengthen these times, so compare the ratios rather than the times.
""")

# %% [markdown]
# ## Time the NCC loss
#
# voxelmorph's NCC sums over each window with one dense convolution. Our NCC sums along one axis
# after the other, which needs fewer operations in 3D. The next cell defines a function that times
# a loss with its gradient and returns the shortest of three times.

# %%
from time import perf_counter

from vxmlib import losses


def loss_seconds(loss, repeats=3):
    @tf.function
    def value_and_gradient(fixed, warped):
        value = tf.reduce_mean(loss(fixed, warped))
        return value, tf.gradients(value, warped)[0]

    images = tf.constant(fixed), tf.constant(moving)
    value = float(value_and_gradient(*images)[0])  # the first call compiles
    times = []
    for _ in range(repeats):
        start = perf_counter()
        value_and_gradient(*images)[1].numpy()
        times.append(perf_counter() - start)
    return value, min(times)


# %% [markdown]
# The next table shows the time and the value of each loss, because comparing the times is fair
# only if both losses compute the same value.

# %%
ncc = {"voxelmorph's NCC": vxm.losses.NCC().loss, "our NCC": losses.LocalNCC().loss}
measured = {name: loss_seconds(loss) for name, loss in ncc.items()}
ncc_table = pd.DataFrame(measured, index=["value", "seconds"]).T
ncc_table.round({"value": 5, "seconds": 3})

# %% tags=["remove-input"]
theirs, ours = ncc_table["seconds"]
Markdown(f"""
Both losses have the same value, but voxelmorph's NCC takes {theirs / ours:.1f} times as long as
our NCC on this device ({device_summary()}).
""")

# %% [markdown]
# The script `benchmarks/ncc.py` repeats this comparison for several grids and also compares the
# gradients.
#
# ## Estimate the full size
#
# Training keeps the outputs of all layers to compute the gradients, so these outputs need most of
# the memory. Keras knows their sizes before it allocates memory, and `models.outputs_gb` adds the
# sizes up for one pair. The row "papers" is for the grid of the VoxelMorph papers.

# %%
grids = {"2 mm": (80, 96, 80), "1 mm": (160, 192, 160), "papers": (160, 192, 224)}
sizes = pd.DataFrame(index=pd.Index(grids, name="grid"))
for name, shape in grids.items():
    small = models.build(shape, network=StridedVxmDense, features="vxm1")
    sizes.loc[name, "strided U-Net, GB"] = models.outputs_gb(small)
    sizes.loc[name, "VxmDense, GB"] = models.outputs_gb(models.build(shape))
sizes.round(2)

# %% [markdown]
# These sizes are computed, not measured, and the gradients and the loss need additional memory. An
# author of voxelmorph reports about 10 GB for the volume size and the network of the papers
# ([thread 235](https://github.com/voxelmorph/voxelmorph/issues/235)).
#
# The profile `full` trains VxmDense at 1 mm. The next cell estimates its training time from the
# measured time of a step, assuming that the time is proportional to the number of voxels.

# %%
from vxmlib.experiments.settings import Settings

full = Settings(profile="full")
larger = np.prod(grids["1 mm"]) / np.prod(grid)
full_days = seconds["VxmDense, our NCC"] * larger * full.steps / 86400
print(f"{full.steps} steps: about {full_days:.0f} days on this machine")

# %% tags=["remove-input"]
from vxmlib.experiments.results import committed_record

trained = committed_record("malf/training/ncc.json")
Markdown(f"""
The profile `full` is meant for a GPU, and it was not run for this book.

For 2 mm, the estimated time can be compared with a finished training run. Training the strided
U-Net on real brains, with NCC and λ = 1, took {trained["seconds"] / 3600:.1f} hours for
{trained["metrics"]["steps"]} steps (device: {trained["device"]}). This time includes augmentation
and validation, so it is longer than the time of the steps alone.
""")

# %% [markdown]
# ## Several devices
#
# `fit()` distributes each batch over several devices if the model was built in the scope of a
# `MirroredStrategy`. The next cells test whether two devices give the same losses as one, with the
# same seed and the same batches. Small simulated 2D slices are sufficient for this test.

# %%
from vxmlib import cohorts, pairs

people = cohorts.load("mni", ndim=2, spacing=2.0)


def trained_in(strategy, steps, batch_size=4, **options):
    with strategy.scope():
        set_seed(seed)
        options = {"features": "small", "learning_rate": 1e-3} | options
        model = models.build(people.shape, **options)
    train = people.split["train"]
    data = pairs.pair_dataset(people, train, batch_size=batch_size, seed=seed)
    clock = loops.Clock()
    options = {"steps_per_epoch": 1, "callbacks": [clock], "verbose": 0}
    history = model.fit(data, epochs=steps, **options).history
    return np.array(history["loss"]), clock.seconds()


# %% [markdown]
# The function `trained_in` returns the loss of each step and the median time of a step. The next
# cell calls this function for one logical device and then for both.

# %% tags=["remove-stderr"]
tf.get_logger().setLevel("ERROR")  # no message for each sum over devices
one, _ = trained_in(tf.distribute.OneDeviceStrategy("CPU:0"), 6)
mirrored = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
both, _ = trained_in(mirrored, 6)
pd.DataFrame({"one device": one, "two devices": both}).rename_axis("step").round(6)

# %% tags=["remove-input"]
relative = np.abs(both / one - 1).max()
Markdown(f"""
Each of the two devices received two of the four pairs of a batch. The largest relative difference
from the losses on one device is {relative:.0e}, which is the size of rounding errors.
""")

# %% [markdown]
# A batch of one pair cannot be divided between two devices. The next cell prints the type of the
# resulting error.

# %% tags=["remove-stderr"]
from vxmlib.book.errors import kind_of_error

print(kind_of_error(lambda: trained_in(mirrored, 2, batch_size=1)))

# %% [markdown]
# A batch must therefore contain at least as many pairs as there are devices. This section shows
# that training on two devices gives the same losses as training on one. The test cannot show a
# gain in speed, because both logical devices share one CPU. We did not test several GPUs.
#
# ## Half precision
#
# With the policy `mixed_float16`, Keras computes in 16 bits and keeps the weights in 32 bits. The
# next cell builds VxmDense and the strided U-Net with this policy and prints the data type of the
# displacement.

# %% tags=["remove-stderr"]
set_policy = tf.keras.mixed_precision.set_global_policy
set_policy("mixed_float16")
networks = {"VxmDense": vxm.networks.VxmDense, "strided U-Net": StridedVxmDense}
for name, network in networks.items():
    model = models.build(people.shape, network=network, features="small")
    print(f"{name:14s} displacement in {model.outputs[-1].dtype.name}")
set_policy("float32")

# %% [markdown]
# VxmDense is built without an error, but its displacement has only 16 bits. The warp adds the
# displacement to the position of each voxel, and 16 bits represent a position in a large image
# only roughly. The next cell shows how each data type rounds the position `150.3`.

# %%
for kind in (tf.float32, tf.float16, tf.bfloat16):
    print(f"{kind.name:9s} {float(tf.cast(150.3, kind)):.3f}")

# %% [markdown]
# NCC has a similar problem, because it computes a variance as a small difference between large
# sums. The next cell computes both NCC losses for the same two images in each data type.

# %%
images = [tf.constant(people.image(k)[None, ..., None]) for k in people.split["train"][:2]]
for kind in (tf.float32, tf.float16, tf.bfloat16):
    pair = [tf.cast(image, kind) for image in images]
    error = kind_of_error(lambda pair=pair: vxm.losses.NCC().loss(*pair))
    value = float(tf.reduce_mean(losses.LocalNCC().loss(*pair)))
    print(f"{kind.name:9s} ours {value:.4f}, voxelmorph's: {error}")

# %% [markdown]
# voxelmorph's NCC stops with an error if the images are stored in 16 bits. Our NCC always sums in 32
# bits. Its value for 16-bit images differs from its value for 32-bit images only because the 16-bit
# images are rounded.
#
# The strided U-Net computes displacement, integration and warp in 32 bits, and only its
# convolutions follow the policy. The next cell trains this network for 12 steps with each policy.

# %% tags=["remove-stderr"]
gpus = tf.config.list_logical_devices("GPU")
device = tf.distribute.OneDeviceStrategy("GPU:0" if gpus else "CPU:0")
runs_by_policy = {}
for policy in ("float32", "mixed_float16", "mixed_bfloat16"):
    set_policy(policy)
    runs_by_policy[policy] = trained_in(device, 12, network=StridedVxmDense)
set_policy("float32")

# %% [markdown]
# The next table gives the loss of the last step, and the time of a step divided by the time with
# 32 bits.

# %%
half = pd.DataFrame(runs_by_policy, index=["losses", "s"]).T
half_table = pd.DataFrame({"last loss": half["losses"].str[-1].astype(float)})
half_table["time relative to 32 bits"] = (half["s"] / half.loc["float32", "s"]).astype(float)
policies = {"float32": "32 bits", "mixed_float16": "float16", "mixed_bfloat16": "bfloat16"}
half_table.rename(index=policies).round({"last loss": 4, "time relative to 32 bits": 1})

# %% tags=["remove-input"]
difference = max(np.abs(x - half["losses"].iloc[0]).max() for x in half["losses"])
_, float16, bfloat16 = half_table["time relative to 32 bits"]
Markdown(f"""
In every step, the losses with 16 bits differ from those with 32 bits by at most {difference:.4f}.
A step takes {float16:.1f} times as long with `float16` as with 32 bits, and {bfloat16:.1f} times
as long with `bfloat16`. These ratios apply only to this device ({device_summary()}). To measure
the ratios on a GPU, build this page on one.
""")

# %% [markdown]
# ## Exercises
#
# **Exercise 1.** By how much does rounding to 16 bits change a displacement of `5.03` voxels, and
# one of `50.3` voxels? For which image sizes can `float16` represent positions in steps of about a
# hundredth of a voxel?

# %% tags=["hide-cell"] mystnb={"code_prompt_show": "Solution", "code_prompt_hide": "Solution"}
for displacement in (5.03, 50.3):
    print(displacement, "becomes", float(tf.cast(displacement, tf.float16)))
for position in (16, 128):
    print("step at position", position, "is", float(np.spacing(np.float16(position))))

# %% [markdown]
# <details><summary>Answer</summary>
#
# Rounding has little effect on the displacement itself. It has more effect on the sum of
# displacement and voxel position, because the step between neighbouring float16 numbers grows with
# the position. From position 128 on, the step is at least an eighth of a voxel. Up to position 32,
# the step is at most 1/64 of a voxel. To keep the step this small, an image may have at most 32
# voxels per axis.
#
# </details>
#
# **Exercise 2.** Estimate the memory of the layer outputs of VxmDense on the grid of your own
# scans, for example 96 × 112 × 96 voxels.

# %% tags=["hide-cell"] mystnb={"code_prompt_show": "Solution", "code_prompt_hide": "Solution"}
print(f"{models.outputs_gb(models.build((96, 112, 96))):.1f} GB for one pair")

# %% [markdown]
# ## Report the versions
#
# Times and results depend on package versions. The file `requirements.lock` lists all versions,
# with a hash for each file of a package. The next cell prints the most important versions.

# %%
print(", ".join(f"{name} {version}" for name, version in versions().items()))

# %% [markdown]
# ## Summary
#
# - Before a long training run, time one step and multiply this time by the number of steps.
# - The layers at full resolution need most of the memory, and the strided U-Net has fewer such
#   layers than VxmDense.
# - Report the device, versions, time and memory with each result.
# - Two devices give the same losses as one device if each of them gets half of the batch.
# - Half precision is suitable for convolutions, but positions, warps and NCC need 32 bits.
#
# **Read on:** TensorFlow's guides on
# [distributed training](https://www.tensorflow.org/guide/distributed_training) and
# [mixed precision](https://www.tensorflow.org/guide/mixed_precision).
