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
# # Write the training step three ways
#
# | | |
# |---|---|
# | **You will** | train with `fit()`, with a custom `train_step` and with a loop that you write yourself (a *bare loop*), and compare the losses step by step |
# | **You will learn** | what `fit()` can do, and what you give up when you replace parts of it |
# | **You need** | [Compile and fit](03_fit.ipynb) and [the Jacobian determinant](05_jacobian.ipynb) |
# | **In → out** | training subjects → for each way, the loss at every step and the time of a step |
# | **Not here** | the choice between the three ways, which is the subject of [the next lesson](16_situations.ipynb) |
# | **Time** | 20 minutes |

# %% tags=["remove-input"]
from IPython.display import Markdown, display

result = display(Markdown("The result appears here when the page has run."), display_id=True)

# %% [markdown]
# ## Set the parameters
#
# The training runs of this lesson are short and use slices with voxels of 2 mm. Such runs are
# sufficient, because the lesson compares single training steps, not the quality of a registration.

# %% tags=["parameters"]
cohort = "mni"
profile = "quick"
seed = 0
root = None
lam = 1.0
spacing = 2.0
learning_rate = 0.001

# %%
from vxmlib.experiments import runs
from vxmlib.experiments.settings import read_parameters

settings = read_parameters(globals())
people = runs.load_cohort(settings)
print(people.shape, "voxels,", len(people.split["train"]), "training subjects")

# %% [markdown]
# As in [Compile and fit](03_fit.ipynb), the losses are local NCC for the images and voxelmorph's
# `Grad` for the smoothness of the displacement.

# %%
from vxmlib import losses
from vxmlib.backend import tf, vxm

image_loss = losses.LocalNCC().loss
smoothness = vxm.losses.Grad("l2").loss

# %% [markdown]
# All training runs of this lesson start from the same weights. The function `fresh` therefore sets
# the seed before it builds and compiles voxelmorph's `VxmDense`.

# %%
from vxmlib import backend


def fresh(network=vxm.networks.VxmDense):
    backend.set_seed(settings.seed)
    model = network(people.shape, int_steps=0)
    optimizer = tf.keras.optimizers.Adam(settings.learning_rate)
    both = {"loss": [image_loss, smoothness], "loss_weights": [1.0, settings.lam]}
    model.compile(optimizer, **both)
    return model


# %% [markdown]
# All training runs also use the same pairs in the same order. The function `data` therefore draws
# the pairs with a fixed seed.

# %%
from vxmlib import pairs


def data():
    ids = people.split["train"]
    return pairs.pair_dataset(people, ids, batch_size=1, seed=settings.seed)


# %% [markdown]
# ## Ask `fit()` first
#
# Four tasks are often given as reasons for a custom loop: clipping gradients, freezing layers,
# changing the learning rate during training, and monitoring the displacement. For each task, Keras
# already has a property, an argument or a callback.
#
# ### Freeze and clip
#
# The weights of a layer with `trainable = False` do not change during training. Set this property
# before `compile`, because `compile` collects the trainable weights. The next cell freezes the
# encoder.

# %%
model = fresh()
for layer in model.layers:
    if "enc_conv" in layer.name:
        layer.trainable = False

# %% [markdown]
# Every Keras optimiser can limit the norm of the gradients. The argument `clipnorm` limits the norm
# for each weight tensor separately, and `global_clipnorm` for all tensors together. Here we use
# plain gradient descent with a learning rate of 1, so each tensor changes by exactly its clipped
# gradient. The steps of Adam would not show the clipping, because Adam divides each gradient by a
# running average of the gradient's size.

# %%
limit = 0.01
optimizer = tf.keras.optimizers.SGD(1.0, clipnorm=limit)
model.compile(optimizer, loss=model.loss, loss_weights=[1.0, settings.lam])

# %% [markdown]
# ### Change the learning rate and monitor the displacement
#
# Keras has a callback for learning-rate schedules. Here this callback halves the learning rate at
# the start of the third epoch and of each later epoch.

# %%
falling = tf.keras.callbacks.LearningRateScheduler(
    lambda epoch, rate: rate / 2 if epoch > 1 else rate
)

# %% [markdown]
# To monitor the displacement, we write a callback that registers a validation pair. The next cell
# selects the pair.

# %%
from vxmlib import metrics, models

moving, fixed = runs.validation_pairs(people)[0]
images = people.image(moving), people.image(fixed)

# %% [markdown]
# After each epoch, the callback registers this pair and logs the percentage of brain voxels that
# are folded.

# %%
class WatchFolding(tf.keras.callbacks.Callback):
    def on_epoch_end(self, epoch, logs):
        displacement = models.register(self.model, *images)
        folding = metrics.folding(displacement, people.brain(fixed))
        logs["folded, % of the brain"] = folding.percent_in_mask


# %% [markdown]
# Our callback `training.RegistrationMonitor` does the same for a list of pairs and also logs their
# mean Dice.
#
# ### Run all four at once
#
# The first epoch has a single step. To compare this step with the limit, the next cell measures the
# largest change of a weight tensor.

# %%
import numpy as np

callbacks = {"callbacks": [falling, WatchFolding()], "verbose": 0}
start = [weight.numpy() for weight in model.weights]
model.fit(data(), steps_per_epoch=1, **callbacks)
moved = [w.numpy() - old for w, old in zip(model.weights, start, strict=True)]
longest = max(np.linalg.norm(change) for change in moved)

# %% [markdown]
# Three longer epochs follow, in which the schedule changes the learning rate.

# %%
history = model.fit(data(), initial_epoch=1, epochs=4, steps_per_epoch=5, **callbacks)

# %% [markdown]
# The next cell tests whether the encoder is unchanged, and whether the single step of the first
# epoch stayed within the limit.

# %%
encoder = [
    (w.numpy() == old).all()
    for w, old in zip(model.weights, start, strict=True)
    if "enc_conv" in w.name
]
print("encoder unchanged:", all(encoder))
print(f"longest step of a weight tensor: {longest:.4f} (limit {limit})")

# %% [markdown]
# For each epoch, the log shows the learning rate, the loss and the folding of the monitored pair.

# %%
import pandas as pd

log = pd.DataFrame(history.history, index=[2, 3, 4]).rename_axis("epoch")
log[["lr", "loss", "folded, % of the brain"]].rename(columns={"lr": "learning rate"}).round(4)

# %% [markdown]
# None of the four tasks needed a custom loop. For a task that does need one, the rest of the lesson
# shows how to write the training step.

# %% [markdown]
# ## First way: call `fit()`
#
# `fit()` reports the mean loss over the steps of an epoch. To obtain the loss of each step, we
# therefore use epochs of one step.

# %%
steps = 50 if settings.profile != "smoke" else 10
model = fresh()
history = model.fit(data(), epochs=steps, steps_per_epoch=1, verbose=0)
by_step = {"fit()": np.array(history.history["loss"])}

# %% [markdown]
# The callback `loops.Clock` records when each step ends, and the time of a step is the difference
# between two successive records. We report the tenth percentile of these times, because other
# programs on the machine can only make a step slower.

# %%
from vxmlib.methods import loops


def milliseconds(clock):
    return 1000 * np.percentile(np.diff(clock.times), 10)


# %% [markdown]
# The timed steps belong to one long epoch, because work between epochs would add to the time of a
# step.

# %%
clock = loops.Clock()
model.fit(data(), steps_per_epoch=steps, callbacks=[clock], verbose=0)
times = {"fit()": milliseconds(clock)}

# %% [markdown]
# ## Second way: replace `train_step`
#
# `fit()` calls the model's `train_step` once for each batch. A subclass that replaces this method
# keeps everything else in `fit()`, such as callbacks, history, checkpoints and training on several
# devices. The body of the method has only six lines.

# %%
class OwnStep(vxm.networks.VxmDense):
    def train_step(self, batch):
        inputs, targets = batch
        with tf.GradientTape() as tape:
            outputs = self(inputs, training=True)
            loss = self.compute_loss(inputs, targets, outputs)
        self.optimizer.minimize(loss, self.trainable_variables, tape=tape)
        return self.compute_metrics(inputs, targets, outputs, None)


# %% [markdown]
# To change the gradients before they are applied, replace `minimize` by `tape.gradient` and
# `apply_gradients`. In [mixed precision](../book/glossary.md#mixed-precision), with float16,
# you then have to scale the loss and unscale the gradients yourself, whereas `minimize` does both.
# For another custom `train_step`, see [HyperMorph](14_hypermorph.ipynb).
#
# The next cell trains and times this subclass in the same way as `VxmDense` above.

# %%
model = fresh(OwnStep)
history = model.fit(data(), epochs=steps, steps_per_epoch=1, verbose=0)
by_step["own train_step"] = np.array(history.history["loss"])
clock = loops.Clock()
model.fit(data(), steps_per_epoch=steps, callbacks=[clock], verbose=0)
times["own train_step"] = milliseconds(clock)

# %% [markdown]
# ## Third way: write the loop
#
# A bare loop does not call `fit()`, so the next cell also prepares the model's optimiser.

# %%
model = fresh()
optimizer, weights = model.optimizer, model.trainable_variables
optimizer.build(weights)

# %% [markdown]
# The function `one_step` performs the same operations as `train_step`, but also has to compute the
# weighted sum of the losses. Without `tf.function`, which compiles the step, the loop would be much
# slower.

# %%
@tf.function
def one_step(inputs, targets):
    with tf.GradientTape() as tape:
        warped, displacement = model(inputs, training=True)
        image_term = tf.reduce_mean(image_loss(targets[0], warped))
        smooth_term = tf.reduce_mean(smoothness(None, displacement))
        loss = image_term + settings.lam * smooth_term
    gradients = tape.gradient(loss, weights)
    optimizer.apply_gradients(zip(gradients, weights, strict=True))
    return loss


# %% [markdown]
# The loop performs one step for each batch, and `loops.Clock` again records when each step ends.

# %%
clock, by_loop = loops.Clock(), []
for step, (inputs, targets) in enumerate(data().take(steps)):
    by_loop.append(float(one_step(inputs, targets)))
    clock.on_train_batch_end(step)
by_step["bare loop"] = np.array(by_loop)
times["bare loop"] = milliseconds(clock)

# %% [markdown]
# ## Guard the loop
#
# If the loss became NaN, the loop above would still continue until the last step. Our function
# `loops.train` is the same loop with additional checks (*guards*) and outputs:
#
# - It stops with a message when the loss or a weight is no longer finite, or when the batches run
#   out.
# - It can save the last good weights in a file, and it returns a table with every term of the loss.
# - It raises an error if the optimiser expects a scaled loss, as in mixed precision.
#
# `loops.compiled_terms` takes the losses and their weights from the compiled model, so the loop
# minimises the same objective as `fit()`.

# %%
model, clock = fresh(), loops.Clock()
terms = loops.compiled_terms(model)
table = loops.train(model, data(), terms, steps=steps, after=clock.after)
by_step["guarded loop"] = table["loss"].to_numpy()
times["guarded loop"] = milliseconds(clock)

# %% [markdown]
# The returned table has one row for each step. The next cell shows the last two rows.

# %%
table.set_index("step").set_axis(["loss", "image loss", "smoothness"], axis=1).tail(2).round(4)

# %% [markdown]
# Neither the bare loop nor the guarded loop can resume an interrupted training run, because neither
# saves the state of the optimiser.
#
# ## Compare the losses and the time of a step
#
# If the four variants are correct, they give the same loss at every step, up to rounding. For each
# variant, the table shows the largest relative difference from the losses of `fit()`, the time of a
# step, and the loss of the last step.

# %%
reference = by_step["fit()"]
apart = {name: abs(values / reference - 1).max() for name, values in by_step.items()}
last = {name: values[-1] for name, values in by_step.items()}
bridge = pd.DataFrame({"largest difference": apart, "ms a step": times, "last loss": last})
shown = {"largest difference": "{:.1g}", "ms a step": "{:.0f}", "last loss": "{:.5f}"}
bridge.style.format(shown)

# %% tags=["remove-input"]
most = max(apart.values())
assert most < 1e-4
equal = f"equal to within a relative difference of {most:.0e}" if most else "exactly equal"
Markdown(f"""
Over {steps} steps, the losses of the four variants are {equal}. On another machine, the variants
may add the same numbers in different orders, and every sum is rounded to 32 bits. A relative
difference of up to about `1e-5` therefore does not indicate an error.
""")

# %% [markdown]
# The time of a step depends on the machine and on its load. Before you replace `fit()` to save
# time, measure a step of `fit()` and of your loop on your machine.

# %% tags=["remove-cell"]
by_fit, in_loop = f"{times['fit()']:.0f} ms", f"{times['bare loop']:.0f} ms"
timing = f"{by_fit} with `fit()`, compared with {in_loop} with the bare loop"
if by_fit == in_loop:
    timing = f"about {by_fit} both with `fit()` and with the bare loop"
result.update(Markdown(f"""
**Result.** The losses of `fit()`, of a custom `train_step` and of a bare loop are {equal}. Each
way trained voxelmorph's `VxmDense` for {steps} steps, on slices of {people.shape[0]} ×
{people.shape[1]} voxels. A step takes {timing}.
"""))

# %% tags=["remove-cell"]
names = {"fit()": "fit"}
columns = {"largest difference": "largest difference from fit"}
rows = bridge.rename(index=names, columns=columns).to_dict("index")

# %% tags=["remove-cell"]
inside_fit = {
    "clipping": bool(longest <= 1.001 * limit),
    "freezing": bool(all(encoder)),
    "monitoring": "folded, % of the brain" in log.columns,
}

# %% tags=["remove-cell"]
from vxmlib.experiments import recording

kept = {"steps": steps, "bridge": rows, "inside_fit": inside_fit}
seconds = steps * times["fit()"] / 1000
record = recording.make_record("15_steps", settings, people, seconds=seconds, **kept)
recording.keep_record("15_steps", record)

# %% [markdown]
# ## Know what you give up
#
# The table compares what the three ways provide.
#
# | | `fit()` | own `train_step` | bare loop |
# |---|---|---|---|
# | Callbacks, progress log | yes | yes | you write them |
# | Resuming from a checkpoint | yes | yes | you write it |
# | Training on several devices (`tf.distribute`) | yes | yes | you write it |
# | Mixed precision | yes | with `minimize` | you write the scaling |
# | Stopping at NaN | a callback | a callback | you write it (as in `loops.train`) |
# | Changing the gradients | only clipping | yes | yes |
# | Two optimisers that alternate | no | yes | yes |
#
# > **Tip: Keep `fit()` as the reference**
# >
# > If you write a loop, first make it perform the same step as `fit()`, and compare the losses
# > as in this lesson. Then change one thing at a time.

# %% [markdown]
# ## Exercises
#
# **Exercise 1.** Leave the smoothness term out of the guarded loop, as if you had forgotten it. At
# which step does the comparison with `fit()` reveal the mistake?

# %% tags=["hide-cell"] mystnb={"code_prompt_show": "Solution", "code_prompt_hide": "Solution"}
model = fresh()
terms = loops.compiled_terms(model, lam=0.0)
wrong = loops.train(model, data(), terms, steps=steps)
difference = abs(wrong.set_index("step")["loss"] / reference - 1)
print(difference.iloc[[0, 1, 4, 9]].map("{:.0e}".format).to_string())

# %% [markdown]
# At four steps, the solution prints the relative difference between its loss and the loss of
# `fit()`. The first difference is almost zero, because the displacement of the untrained network is
# almost zero, and so is the smoothness term. After a few steps, the difference is larger than
# rounding errors can explain, which reveals the mistake.
#
# **Exercise 2.** Clip the gradients in the bare loop. Which line do you add? For brevity, the
# solution uses only the image loss.

# %% tags=["hide-cell"] mystnb={"code_prompt_show": "Solution", "code_prompt_hide": "Solution"}
with tf.GradientTape() as tape:
    warped, displacement = model(inputs, training=True)
    loss = tf.reduce_mean(image_loss(targets[0], warped))
gradients = tape.gradient(loss, model.trainable_variables)
clipped, norm = tf.clip_by_global_norm(gradients, 0.01)  # the line to add
print(f"norm before {norm:.4f}, after {tf.linalg.global_norm(clipped):.4f}")

# %% [markdown]
# ## Summary
#
# - Clipping, freezing, a learning-rate schedule and monitoring need only a property, an argument or
#   a callback of Keras.
# - A custom `train_step` of six lines keeps everything else in `fit()`.
# - A bare loop gives the same losses as `fit()`, but resuming, mixed precision and guards require
#   additional code.
# - Before you change a loop, compare its losses with those of `fit()` step by step.
#
# **Read on:** [Decide whether you need a loop](16_situations.ipynb) covers four situations in which
# loops are often written.
