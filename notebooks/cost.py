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
# # Know what it costs: environment, time, memory
#
# | | |
# |---|---|
# | **You will** | read what this very build ran on, what each lesson took, and what the full size asks for |
# | **You will learn** | what several devices and half precision change, and what they break |
# | **You need** | [lesson 4](03_fit.ipynb) |
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
from vxmlib import cohorts, models, pairs
from vxmlib.book import claims
from vxmlib.experiments import runs
from vxmlib.experiments.results import committed_record
from vxmlib.methods import loops
from vxmlib.experiments.settings import Settings, read_parameters
from vxmlib.backend import device_summary, set_seed, tf, versions, vxm

for gpu in tf.config.list_physical_devices("GPU"):
    tf.config.experimental.set_memory_growth(gpu, True)
processor = tf.config.list_physical_devices("CPU")[0]
two = [tf.config.LogicalDeviceConfiguration()] * 2
tf.config.set_logical_device_configuration(processor, two)

# %%
settings = read_parameters(globals())
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

found = sorted(runs.output_folder().glob("*/cost.json"))
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
from vxmlib import records
from vxmlib.book import glue

grid_folder = runs.output_folder().parents[1] / "lambda"
grid_seconds = [
    records.read(path)["seconds"]
    for path in grid_folder.glob(f"*-{settings.cohort}*/*.json")
]
on_top = "This profile has no grid in lesson 7."
if grid_seconds:
    on_top = f"The {len(grid_seconds)} trainings of lesson 7's grid come on top, with"
    on_top += f" {sum(grid_seconds) / 60:.0f} minutes."
glue.glue(
    lessons=len(costs),
    total=float(costs["minutes"].sum()),
    peak=float(costs["peak_gb"].max()) if len(costs) else 0.0,
    on_top=on_top,
)

# %% [markdown]
# Together the {glue:text}`lessons` lessons took {glue:text}`total:.0f` minutes, one after the
# other, and at most {glue:text}`peak:.1f` GB. {glue:text}`on_top`
# In a fresh folder this is all of it. After a change only what depends on it runs again, and a
# lesson that runs again finds the models that it trained before: such a row is without its
# training.
#
# ## What the full size takes
#
# Memory goes into the outputs of the layers, which training keeps for its gradients. Keras knows
# their sizes without allocating them: here for one pair, for both networks, and for the filters of
# the journal paper, which the profile `full` takes.

# %% tags=["remove-stderr"]
import numpy as np

from vxmlib.networks.strided import StridedVxmDense

networks = [StridedVxmDense, vxm.networks.VxmDense]
grids = {"2 mm": (80, 96, 80), "1 mm": (160, 192, 160), "papers'": (160, 192, 224)}
size = pd.DataFrame(index=grids)
for name, shape in grids.items():
    for network in networks:
        model = models.build(shape, network=network, features="vxm1")
        size.loc[name, network.__name__] = models.outputs_gb(model)
    size.loc[name, "VxmDense, twice the filters"] = models.outputs_gb(
        models.build(shape)
    )
tf.keras.backend.clear_session()
size.round(2)

# %% [markdown]
# In GB, of the outputs alone, computed and not measured. Gradients and the loss come on top: users
# of voxelmorph report about 10 GB at the papers' size (threads
# [235](https://github.com/voxelmorph/voxelmorph/issues/235),
# [282](https://github.com/voxelmorph/voxelmorph/issues/282)).
#
# And time? `make full` trains `StridedVxmDense` at 2 mm. What its first training took:

# %%
told = committed_record("malf/training/ncc.json")
steps_taken = told["metrics"]["steps"]
plan_full = Settings(profile="full")
hours = told["seconds"] / 3600
print(f"{told['device']}: {steps_taken} steps in {hours:.1f} hours")

# %% tags=["remove-cell"]
days = hours / 24 * 8 * plan_full.steps / steps_taken
glue.glue(full_steps=plan_full.steps, days=days)

# %% [markdown]
# The profile `full` has eight times the voxels and {glue:text}`full_steps` steps: on that processor
# about {glue:text}`days:.0f` days by this count, and more with the larger network. It is for a GPU,
# where it was not run here.
#
# ## Several devices
#
# `fit()` distributes a batch over devices when the model was built inside the scope of a strategy.
# The same seed and the same batches, on one device and on two. The question is whether the losses
# are equal, so small simulated slices will do, whatever this build shows elsewhere.

# %%
people = cohorts.load("mni", ndim=2, spacing=2.0)


def fitted(strategy, steps, batch_size=4, **options):
    options = {"learning_rate": 1e-3, "features": "small"} | options
    with strategy.scope():
        set_seed(seed)
        model = models.build(people.shape, **options)
    ids = people.split["train"]
    data = pairs.pair_dataset(people, ids, batch_size=batch_size, seed=seed)
    clock = loops.Clock()
    told = model.fit(
        data, epochs=steps, steps_per_epoch=1, callbacks=[clock], verbose=0
    )
    return np.array(told.history["loss"]), clock.seconds()


# %% [markdown]
# One device, then both:

# %% tags=["remove-stderr"]
tf.get_logger().setLevel("WARNING")  # else it tells of each sum over devices
one, _ = fitted(tf.distribute.OneDeviceStrategy("CPU:0"), 6)
mirrored = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
both, _ = fitted(mirrored, 6)
pd.DataFrame({"one device": one, "two devices": both}).rename_axis("step").round(6)

# %% tags=["remove-cell"]
glue.glue(apart=f"{np.abs(both / one - 1).max():.0e}")

# %% [markdown]
# They differ by {glue:text}`apart`, relatively: rounding. The batch is divided, two pairs for each
# device. And a batch of one, of which the second device gets nothing?

# %% tags=["remove-stderr"]
error = claims.error_of(lambda: print(fitted(mirrored, 2, batch_size=1)[0]))
print(error[:90] or "it trains")

# %% [markdown]
# Take at least as many pairs as devices. On processors this shows that it is right, not that it is
# fast.
#
# ## Half precision
#
# One line sets a policy, and Keras computes in 16 bits with weights in 32. For registration that
# line alone is wrong, and says nothing: `VxmDense` builds, and its field has 16 bits, too.

# %% tags=["remove-stderr"]
half_precision = tf.keras.mixed_precision.set_global_policy
half_precision("mixed_float16")
for network in networks:
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
# NCC subtracts large sums: the variance in a window is the sum of the squares less the square of
# the sum. For one window of 9 × 9 voxels with a faint contrast:

# %%
window = 0.9 + 0.01 * np.sin(np.arange(81))
for kind in (np.float64, np.float32, np.float16):
    x = window.astype(kind)
    variance = np.square(x).sum(dtype=kind) - np.square(x.sum(dtype=kind)) / kind(81)
    print(f"{kind.__name__:8s} {float(variance):.5f}")

# %% [markdown]
# In 16 bits that contrast is lost. voxelmorph's own NCC refuses such images; ours is given them
# here, too:

# %%
from vxmlib import losses

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
gpus = tf.config.list_logical_devices("GPU")
device = tf.distribute.OneDeviceStrategy("GPU:0" if gpus else "CPU:0")
half, seconds = {}, {}
for policy in ("float32", "mixed_float16", "mixed_bfloat16"):
    half_precision(policy)
    half[policy], seconds[policy] = fitted(device, 12, network=StridedVxmDense)
half_precision("float32")
pd.DataFrame(half).rename_axis("step").round(4).iloc[::3]

# %% tags=["remove-cell"]
ratios = {policy: took / seconds["float32"] for policy, took in seconds.items()}
slower = min(ratios["mixed_float16"], ratios["mixed_bfloat16"]) > 1.1
glue.glue(
    float16_times=ratios["mixed_float16"],
    bfloat16_times=ratios["mixed_bfloat16"],
    device=device_summary(),
    half_steps=len(half["float32"]),
    off=max(np.abs(half[k] - half["float32"]).max() for k in half),
    why="It has to convert at each layer." if slower else "",
)

# %% [markdown]
# Over {glue:text}`half_steps` steps the losses differ by at most {glue:text}`off:.4f`. On the machine
# of this build ({glue:text}`device`) a step with the two kinds of 16 bits took
# {glue:text}`float16_times:.1f` and {glue:text}`bfloat16_times:.1f` times as long as with 32.
# {glue:text}`why` Build this page on a GPU, and the cell above measures that one.
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
# - Half precision is for convolutions. Positions, warps and NCC keep 32 bits, or you look beside
#   the place you mean.
#
# **Read on:** Keras on [mixed precision](https://www.tensorflow.org/guide/mixed_precision).
