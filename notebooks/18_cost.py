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
# # 18. Know what it costs: environment, time, memory
#
# | | |
# |---|---|
# | **You will** | read what this very build ran on, what each lesson took, and what the full size asks for |
# | **You will learn** | what several devices and half precision change, and what they break |
# | **You need** | [lesson 4](04_train.ipynb) |
# | **In → out** | the costs that all lessons left behind → a table; small trainings → two comparisons |
# | **Not here** | times on a GPU, unless this build ran on one; what was not measured is marked so |
# | **Time** | 10 minutes |

# %% tags=["parameters"]
cohort = "mni"
profile = "quick"
seed = 0
root = None

# %% [markdown]
# Some settings TensorFlow takes only before it uses its first device. Left alone, it reserves all
# memory of a GPU; when others need some, let it grow instead. And this page splits its processor
# in two, to have several devices.

# %%
from vxmlib import cohorts, models, pairs, profiles, recipe
from vxmlib.backend import device_summary, set_seed, tf, versions, vxm

for gpu in tf.config.list_physical_devices("GPU"):
    tf.config.experimental.set_memory_growth(gpu, True)
processor = tf.config.list_physical_devices("CPU")[0]
two = [tf.config.LogicalDeviceConfiguration()] * 2
tf.config.set_logical_device_configuration(processor, two)

# %%
settings = profiles.read_parameters(globals())
print(device_summary())
print(", ".join(f"{name} {version}" for name, version in versions().items()))

# %% [markdown]
# All other versions are in `requirements.lock`, with a hash for each file.
#
# ## What this build took
#
# Each lesson leaves its time and the most memory that its Python held. Lessons that train use all
# cores; others share them.

# %%
import json

import pandas as pd

found = sorted(recipe.output_folder().glob("*/cost.json"))
costs = {path.parent.name: json.loads(path.read_text()) for path in found}
costs = pd.DataFrame(costs, index=["seconds", "peak_gb", "threads"]).T
costs["minutes"] = (costs["seconds"] / 60).round(1)

# %% [markdown]
# By lesson:

# %%
costs["cores"] = costs["threads"].astype(int)
costs["most memory, GB"] = costs["peak_gb"].round(1)
costs[["minutes", "most memory, GB", "cores"]]

# %% tags=["remove-cell"]
from vxmlib import pages

pages.glue(
    lessons=len(costs),
    total=float(costs["minutes"].sum()),
    peak=float(costs["peak_gb"].max()) if len(costs) else 0.0,
)

# %% [markdown]
# Together the {glue:text}`lessons` lessons took {glue:text}`total:.0f` minutes, one after the
# other, and at most {glue:text}`peak:.1f` GB. The grids of [lesson 7](07_lambda.ipynb) come on top.
# In a fresh folder this is all of it. After a change only what depends on it runs again, and a
# lesson that runs again finds the models that it trained before: such a row is without its
# training.
#
# ## What the full size takes
#
# Memory goes into the outputs of the layers, which training keeps for its gradients. Keras knows
# their sizes without allocating them: here for one pair, and both networks.

# %% tags=["remove-stderr"]
import numpy as np

from vxmlib.networks import NETWORKS

grids = {"2 mm": (80, 96, 80), "1 mm": (160, 192, 160), "papers'": (160, 192, 224)}
size = pd.DataFrame(index=grids)
for name, shape in grids.items():
    for network in NETWORKS.values():
        model = models.build(shape, network=network, features="vxm1")
        size.loc[name, network.__name__] = models.outputs_gb(model)
tf.keras.backend.clear_session()
size.round(2)

# %% [markdown]
# In GB, of the outputs alone; gradients and the loss need about as much again. These are computed,
# not measured. `make full` trains at 2 mm with the second network and took the hours that its
# records state; the profile `full` has voxels of 1 mm and the papers' number of steps, and needs a
# GPU.
#
# ## Several devices
#
# `fit()` distributes a batch over devices when the model was built inside the scope of a strategy.
# The same seed and the same batches, on one device and on two. The question is whether the losses
# are equal, so small simulated slices will do, whatever this build shows elsewhere.

# %%
people = cohorts.load("mni", ndim=2, spacing=2.0)


def losses_of(strategy, steps=6, **options):
    options = {"learning_rate": 1e-3, "features": "small"} | options
    with strategy.scope():
        set_seed(seed)
        model = models.build(people.shape, **options)
    ids = people.split["train"]
    data = pairs.pair_dataset(people, ids, batch_size=4, seed=seed)
    told = model.fit(data, epochs=steps, steps_per_epoch=1, verbose=0)
    return np.array(told.history["loss"])


# %% [markdown]
# One device, then both:

# %% tags=["remove-stderr"]
one = losses_of(tf.distribute.OneDeviceStrategy("CPU:0"))
both = losses_of(tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"]))
apart = np.abs(both / one - 1).max()
pd.DataFrame({"one device": one, "two devices": both}).rename_axis("step").round(6)

# %% tags=["remove-cell"]
pages.glue(apart=f"{apart:.0e}")

# %% [markdown]
# They differ by {glue:text}`apart`, relatively: rounding. The batch is divided, two pairs for each
# device. Of a batch of one the second device would get nothing, so take at least as many pairs as
# devices. On processors this shows that it is right, not that it is fast.
#
# ## Half precision
#
# One line sets a policy, and Keras computes in 16 bits with weights in 32. For registration that
# line alone is wrong, and says nothing: `VxmDense` builds, and its field has 16 bits, too.

# %% tags=["remove-stderr"]
half_precision = tf.keras.mixed_precision.set_global_policy
half_precision("mixed_float16")
for network in NETWORKS.values():
    model = models.build(people.shape, network=network, features="small")
    print(f"{network.__name__:16s} field: {model.outputs[-1].dtype.name}")
half_precision("float32")

# %% [markdown]
# A field says where to look, and in a large image a position does not fit into 16 bits:

# %%
position = 150.3
for kind in (tf.float32, tf.float16, tf.bfloat16):
    print(f"{kind.name:9s} {float(tf.cast(position, kind)):.3f}")

# %% [markdown]
# NCC subtracts large sums, for which 16 bits are too few. voxelmorph's own refuses such images;
# ours is given them here, too:

# %%
from vxmlib import claims, losses

subjects = people.split["train"][:2]
pair = [tf.constant(people.image(k)[None, ..., None]) for k in subjects]
for kind in (tf.float32, tf.float16, tf.bfloat16):
    images = [tf.cast(image, kind) for image in pair]
    error = claims.error_of(lambda images=images: vxm.losses.NCC().loss(*images))
    ours = float(tf.reduce_mean(losses.image_loss("ncc")(*images)))
    print(f"{kind.name:9s} {ours:.4f}   voxelmorph's: {error[:46] or 'runs'}")

# %% [markdown]
# `vxmlib.losses` sums in 32 bits whatever it is given, and `StridedVxmDense` keeps field,
# integration and warp in 32 bits; only its convolutions follow the
# policy. The same training with it:

# %% tags=["remove-stderr"]
import time

half, seconds = {}, {}
for policy in ("float32", "mixed_float16", "mixed_bfloat16"):
    half_precision(policy)
    device = tf.distribute.OneDeviceStrategy("CPU:0")
    began = time.perf_counter()
    half[policy] = losses_of(device, network=NETWORKS["strided"])
    seconds[policy] = time.perf_counter() - began
half_precision("float32")
pd.DataFrame(half).rename_axis("step").round(4)

# %% tags=["remove-cell"]
pages.glue(
    float16_times=seconds["mixed_float16"] / seconds["float32"],
    bfloat16_times=seconds["mixed_bfloat16"] / seconds["float32"],
    device=device_summary(),
    off=max(np.abs(half[k] - half["float32"]).max() for k in half),
)

# %% [markdown]
# The losses differ by at most {glue:text}`off:.4f`. On the processor of this build
# ({glue:text}`device`) the two kinds of 16 bits took {glue:text}`float16_times:.1f` and
# {glue:text}`bfloat16_times:.1f` times as long as 32 bits, compilation included: a processor
# without arithmetic of 16 bits converts at each layer. GPUs have it; what they gain was not
# measured here.
#
# ## On your own
#
# **Exercise.** How far is a displacement of `5.03` voxels moved by 16 bits, and one of `50.3`? Which
# images may one warp with `float16`?

# %% tags=["hide-cell"] mystnb={"code_prompt_show": "Solution", "code_prompt_hide": "Solution"}
for moved in (5.03, 50.3):
    print(moved, "becomes", float(tf.cast(moved, tf.float16)))
print("next to 150 is", float(np.nextafter(np.float16(150), np.float16(200))))

# %% [markdown]
# The displacement alone would do; its sum with the voxel's own position is what loses digits. From
# position 128 on the step is an eighth of a voxel; up to 32 it is a 64th at most, so very small
# images may be warped so.
#
# ## What you take along
#
# - Print versions, device, time and memory beside a result: they are a part of it.
# - Two devices give the losses of one, if the batch can be divided.
# - Half precision is for convolutions. Positions, warps and NCC keep 32 bits, or nothing you read
#   afterwards means what it says.
#
# **Read on:** Keras on [mixed precision](https://www.tensorflow.org/guide/mixed_precision).
