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
# | **You will** | read what each lesson of this build took, and estimate what the full size needs |
# | **You will learn** | what several devices and half precision change, and where they give wrong results |
# | **You need** | [Compile and fit](03_fit.ipynb) |
# | **In → out** | the time and memory that each lesson recorded → tables; short training runs → two comparisons |
# | **Not here** | times on a GPU, unless this build ran on one |
# | **Time** | 15 minutes |

# %% [markdown]
# ## Set the parameters
#
# TensorFlow accepts some settings only before it uses its first device, so this page makes them
# together with its parameters. The first one lets the memory of a GPU grow instead of reserving all
# of it. The second one divides the processor into two logical devices for an experiment below.

# %% tags=["parameters"]
cohort = "mni"
profile = "quick"
seed = 0
root = None

# %%
from vxmlib.backend import device_summary, tf, versions

for gpu in tf.config.list_physical_devices("GPU"):
    tf.config.experimental.set_memory_growth(gpu, True)
processor = tf.config.list_physical_devices("CPU")[0]
two = [tf.config.LogicalDeviceConfiguration()] * 2
tf.config.set_logical_device_configuration(processor, two)

# %%
from vxmlib.experiments.settings import read_parameters

settings = read_parameters(globals())
print(device_summary())
print(", ".join(f"{name} {version}" for name, version in versions().items()))

# %% [markdown]
# The versions of all other packages are in `requirements.lock`.

# %% [markdown]
# ## See what this build took
#
# Each lesson records its time and the largest amount of memory that its Python process used. Lessons
# that train use all cores. The other lessons use one core, so that several of them can run at once.

# %%
import json

import pandas as pd

from vxmlib.experiments import runs

files = sorted(runs.output_folder().glob("*/cost.json"))
costs = {path.parent.name: json.loads(path.read_text()) for path in files}
costs = pd.DataFrame(costs, index=["seconds", "peak_gb", "threads"]).T
costs.index = [name.lstrip("0123456789_").replace("_", " ") for name in costs.index]
costs["minutes"] = (costs["seconds"] / 60).round(1)
names = {"minutes": "minutes", "peak_gb": "memory, GB", "threads": "cores"}
costs[list(names)].rename(columns=names).round(1)

# %% tags=["remove-input"]
from IPython.display import Markdown

Markdown(f"""
Together the {len(costs)} lessons took {costs["seconds"].sum() / 60:.0f} minutes. None of them used
more than {costs["peak_gb"].max() if len(costs) else 0:.1f} GB.
""")

# %% [markdown]
# In a fresh folder these times include all training runs except those of the λ grid, which run
# before [the λ lesson](06_lambda.ipynb). After a change, only the lessons that depend on it run
# again. They find their earlier models, so their times are then shorter.

# %% [markdown]
# ## Estimate the memory of the full size
#
# Training keeps the outputs of all layers for the gradients, and these outputs need most of the
# memory. Keras knows their sizes without allocating them. The table lists them for one pair, for the
# stock `VxmDense` and for the strided U-Net of the 2018 paper, both with the same filters.

# %% tags=["remove-stderr"]
from vxmlib import models
from vxmlib.backend import vxm
from vxmlib.networks.strided import StridedVxmDense

networks = {"strided U-Net": StridedVxmDense, "VxmDense": vxm.networks.VxmDense}
grids = {"2 mm": (80, 96, 80), "1 mm": (160, 192, 160), "1 mm, papers' grid": (160, 192, 224)}
memory = pd.DataFrame(
    {
        name: {
            grid: models.outputs_gb(models.build(shape, network=network, features="vxm1"))
            for grid, shape in grids.items()
        }
        for name, network in networks.items()
    }
)
tf.keras.backend.clear_session()
memory.round(2)

# %% [markdown]
# The values are in GB. They are computed, not measured, and the gradients and the loss come on top
# of them. Users of voxelmorph report about 10 GB at the papers' size (issues
# [235](https://github.com/voxelmorph/voxelmorph/issues/235) and
# [282](https://github.com/voxelmorph/voxelmorph/issues/282)).

# %% [markdown]
# ## Estimate the time of the full size
#
# The committed record of the 3D training run at 2 mm says how long it took on a processor.

# %%
from vxmlib.experiments.results import committed_record

run_3d = committed_record("malf/training/ncc.json")
hours = run_3d["seconds"] / 3600
steps_3d = run_3d["metrics"]["steps"]
print(f"{run_3d['device']}: {steps_3d} steps of the strided U-Net in {hours:.1f} hours")

# %% tags=["remove-input"]
from vxmlib.experiments.settings import Settings

full = Settings(profile="full")
days = hours / 24 * 8 * full.steps / steps_3d
Markdown(f"""
The profile `full` has eight times as many voxels and {full.steps} steps. At the same speed for each
voxel, the strided U-Net would need about {days:.0f} days on that processor, and `VxmDense` needs
several times as long for a step. The profile `full` is therefore meant for a GPU. It has not yet been
run on one.
""")

# %% [markdown]
# ## Train on several devices
#
# `fit()` divides each batch over several devices if the model was built inside the scope of a
# distribution strategy. The next cells train from the same seed with the same batches on one device
# and on two. Equal losses mean that the division is correct, and small simulated slices are enough to
# show this.

# %%
import numpy as np

from vxmlib import cohorts, pairs
from vxmlib.backend import set_seed
from vxmlib.methods import loops

people = cohorts.load("mni", ndim=2, spacing=2.0)


# %% [markdown]
# `fitted` trains for some steps under a strategy. It returns the loss of each step and the seconds
# for a step.

# %%
def fitted(strategy, steps, batch_size=4, **options):
    with strategy.scope():
        set_seed(seed)
        options = {"learning_rate": 1e-3, "features": "small"} | options
        model = models.build(people.shape, **options)
    ids = people.split["train"]
    data = pairs.pair_dataset(people, ids, batch_size=batch_size, seed=seed)
    clock = loops.Clock()
    history = model.fit(data, epochs=steps, steps_per_epoch=1, callbacks=[clock], verbose=0)
    return np.array(history.history["loss"]), clock.seconds()


# %% tags=["remove-stderr"]
tf.get_logger().setLevel("WARNING")  # otherwise each sum over devices prints a line
one, _ = fitted(tf.distribute.OneDeviceStrategy("CPU:0"), 6)
mirrored = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
both, _ = fitted(mirrored, 6)
pd.DataFrame({"one device": one, "two devices": both}).rename_axis("step").round(6)

# %% tags=["remove-input"]
Markdown(f"""
The largest relative difference is {np.abs(both / one - 1).max():.0e}, which is rounding. Each batch
has four pairs, and each device gets two of them.
""")

# %% [markdown]
# A batch of one pair leaves nothing for the second device. The next cell shows what happens then.

# %% tags=["remove-stderr"]
from vxmlib.book.errors import error_of

error = error_of(lambda: print(fitted(mirrored, 2, batch_size=1)[0]))
print(error[:90] or "it trains")

# %% [markdown]
# Use a batch size of at least the number of devices. Two halves of one processor show that the
# division is correct; they cannot show that it is fast.

# %% [markdown]
# ## Train in half precision
#
# One line sets a policy, after which Keras computes in 16 bits and stores the weights in 32. For
# registration this line alone gives wrong results, because the displacement of `VxmDense` then has 16
# bits, too.

# %% tags=["remove-stderr"]
half_precision = tf.keras.mixed_precision.set_global_policy
half_precision("mixed_float16")
for name, network in networks.items():
    model = models.build(people.shape, network=network, features="small")
    print(f"{name:14} displacement: {model.outputs[-1].dtype.name}")
half_precision("float32")

# %% [markdown]
# A displacement says where to look in the moving image. In a large image such a position does not
# fit into 16 bits, as the next cell shows.

# %%
position = 150.3
for kind in (tf.float32, tf.float16, tf.bfloat16):
    print(f"{kind.name:9s} {float(tf.cast(position, kind)):.3f}")

# %% [markdown]
# NCC has the same problem, because it subtracts large sums. It computes the variance in a window as
# the sum of the squares minus the square of the sum. The next cell does so for one window of 9 × 9
# voxels with a weak contrast.

# %%
window = 0.9 + 0.01 * np.sin(np.arange(81))
for kind in (np.float64, np.float32, np.float16):
    x = window.astype(kind)
    variance = np.square(x).sum(dtype=kind) - np.square(x.sum(dtype=kind)) / kind(81)
    print(f"{kind.__name__:8s} {float(variance):.5f}")

# %% [markdown]
# In 16 bits the contrast is lost. The NCC of voxelmorph refuses such images. `losses.LocalNCC`
# accepts them, because it computes its sums in 32 bits.

# %%
from vxmlib import losses

images = [people.image(name)[None, ..., None] for name in people.split["train"][:2]]
for kind in (tf.float32, tf.float16, tf.bfloat16):
    pair = [tf.cast(image, kind) for image in images]
    error = error_of(lambda pair=pair: vxm.losses.NCC().loss(*pair))
    ours = float(tf.reduce_mean(losses.LocalNCC().loss(*pair)))
    print(f"{kind.name:9s} {ours:.4f}   voxelmorph: {error.split(':')[0] or 'runs'}")

# %% [markdown]
# `StridedVxmDense` keeps the displacement, the integration and the warp in 32 bits, so that only its
# convolutions follow the policy. The next cell trains it under three policies.

# %% tags=["remove-stderr"]
gpus = tf.config.list_logical_devices("GPU")
device = tf.distribute.OneDeviceStrategy("GPU:0" if gpus else "CPU:0")
half, seconds = {}, {}
for policy in ("float32", "mixed_float16", "mixed_bfloat16"):
    half_precision(policy)
    half[policy], seconds[policy] = fitted(device, 12, network=StridedVxmDense)
half_precision("float32")
losses_of = {"float32": "32 bits", "mixed_float16": "float16", "mixed_bfloat16": "bfloat16"}
pd.DataFrame(half).rename(columns=losses_of).rename_axis("step").round(4).iloc[::3]

# %% tags=["remove-input"]
off = max(np.abs(values - half["float32"]).max() for values in half.values())
times = {policy: took / seconds["float32"] for policy, took in seconds.items()}
Markdown(f"""
Over {len(one) * 2} steps the losses differ by at most {off:.4f}. On the device of this build
({device_summary()}), a step in float16 takes {times["mixed_float16"]:.1f} times as long as in 32
bits, and a step in bfloat16 {times["mixed_bfloat16"]:.1f} times. A processor that lacks arithmetic
for one of these types has to convert the numbers at each layer.
""")

# %% [markdown]
# ## Exercises
#
# **Exercise.** How much does rounding to 16 bits change a displacement of `5.03` voxels, and one of
# `50.3`? For which image sizes can you warp in `float16`?

# %% tags=["hide-cell"] mystnb={"code_prompt_show": "Solution", "code_prompt_hide": "Solution"}
for moved in (5.03, 50.3):
    print(moved, "becomes", float(tf.cast(moved, tf.float16)))
print("the number after 150 is", float(np.nextafter(np.float16(150), np.float16(200))))

# %% [markdown]
# <details><summary>Answer</summary>
#
# A displacement alone keeps enough digits. Its sum with the position of the voxel does not: from
# position 128 on, the numbers of `float16` are an eighth of a voxel apart. Up to position 32 they are
# at most a 64th of a voxel apart, so very small images can be warped in `float16`.
#
# </details>

# %% [markdown]
# ## Summary
#
# - Report versions, device, time and memory with a result, because they belong to it.
# - Two devices give the same losses as one if the batch can be divided.
# - Use half precision for convolutions only. Positions, warps and NCC need 32 bits.
#
# **Read on:** Keras on [mixed precision](https://www.tensorflow.org/guide/mixed_precision).
