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
# # Decide whether you need a training loop
#
# | | |
# |---|---|
# | **You will** | go through four situations in which training loops are often written, and compare each variant with a reference |
# | **You will learn** | the simplest code for each situation, and whether each variant improved the registration here |
# | **You need** | [the training step three ways](15_steps.ipynb) |
# | **In → out** | training subjects → short training runs of equal length, scored on validation pairs |
# | **Not here** | a ranking of the variants, because each was trained only once and for few steps |
# | **Time** | 25 minutes |

# %% [markdown]
# Few projects need a custom training loop. The table lists common aims for which people write
# loops and, for each aim, the simplest tool that is sufficient.
#
# | Aim | Sufficient tool |
# |---|---|
# | clipped gradients | an argument of the optimiser |
# | frozen layers | a property of the layer |
# | a learning-rate schedule, monitoring, pictures during training | a callback |
# | a λ that changes during training, by a schedule or by a rule | a loss that reads a variable, and a callback |
# | two training stages | `compile` and `fit()`, once per stage |
# | several contrasts of each subject | a `tf.data.Dataset` |
# | the gradient of each loss term | a `tf.GradientTape`, for one batch |
# | a discriminator, or another second network | a custom `train_step` |
# | networks or optimisers that alternate in ways that `train_step` cannot express | a loop |
# | research on the training step itself | a loop |

# %% tags=["remove-input"]
from time import perf_counter

from IPython.display import Markdown, display

began = perf_counter()
result = display(Markdown("The result appears here when the page has run."), display_id=True)

# %% [markdown]
# ## Set the parameters
#
# The images are slices with voxels of 2 mm, and each training run is short. The dozen runs of this
# lesson therefore take only a few minutes.

# %% tags=["parameters"]
cohort = "mni"
profile = "quick"
seed = 0
root = None
image_loss = "ncc"
lam = 1.0
spacing = 2.0
learning_rate = 0.001

# %%
from vxmlib.experiments import runs
from vxmlib.experiments.settings import read_parameters

settings = read_parameters(globals())
people = runs.load_cohort(settings)
steps = max(settings.steps // 4, 6)
print(steps, "steps for each training run")

# %% [markdown]
# All runs train voxelmorph's `VxmDense`. Unless the text says otherwise, all runs start from the
# same weights and use the same pairs in the same order. The functions `fresh` and `data` therefore
# fix the seeds of the model and of the pairs.

# %%
from vxmlib import backend, models, pairs
from vxmlib.backend import tf, vxm

described = {"image_loss": settings.image_loss, "learning_rate": settings.learning_rate}


def fresh(lam=settings.lam, seed=settings.seed, **options):
    backend.set_seed(seed)
    return models.build(people.shape, lam=lam, **(described | options))


def data(seed=settings.seed, **options):
    ids = people.split["train"]
    return pairs.pair_dataset(people, ids, batch_size=1, seed=seed, **options)


# %% [markdown]
# The function `measure` computes the same scores for every variant, on the same validation pairs.

# %%
from functools import partial

from vxmlib.experiments import recording

watched = runs.pairs_of(people, "validation")
results = {}


def measure(name, register):
    scores = recording.measure(register, people, watched)
    keys = ["dice_mean", "folding_percent_brain", "sd_log_jacobian"]
    results[name] = {key: scores[key] for key in keys}
    print(f"{name}: Dice {scores['dice_mean']:.3f}")


# %% [markdown]
# ## Train the reference with `fit()`
#
# The reference is a model that `fit()` trains for as many steps as each variant. We train the
# reference with three seeds, because the range of Dice over the seeds shows how large a difference
# can arise by chance. The first line scores the [identity](../book/glossary.md#identity), which
# leaves the moving image unchanged.

# %%
measure("identity", "identity")
for name, number in {"fit()": 0, "fit(), second seed": 1, "fit(), third seed": 2}.items():
    model = fresh(seed=settings.seed + number)
    model.fit(data(settings.seed + number), steps_per_epoch=steps, verbose=0)
    measure(name, partial(models.register, model))

# %% tags=["remove-input"]
fitted = [row["dice_mean"] for name, row in results.items() if name.startswith("fit()")]
reference, seed_range = fitted[0], max(fitted) - min(fitted)
Markdown(f"""
Between the three seeds, Dice differs by up to {seed_range:.3f}. A smaller difference in Dice
between a variant and the reference can therefore be due to chance.
""")

# %% [markdown]
# ## Situation 1: the objective changes during training
#
# ### A curriculum for λ
#
# A [curriculum](../book/glossary.md#curriculum) begins with an easier task. Here λ starts at ten
# times its final value, so the loss at first favours very smooth deformations. After half of the
# steps, λ reaches its final value. Keras compiles a loss only once and then treats the numbers in
# it as constants, so a number that changes later has to be a `tf.Variable`.

# %%
stiffness = tf.Variable(10 * settings.lam)


def loosen(step):
    left = max(0.0, 1 - 2 * step / steps)
    stiffness.assign(settings.lam * 10**left)


# %% [markdown]
# In `fit()`, the smoothness loss is multiplied by this variable, and a callback changes the
# variable after each step.

# %%
model = fresh()
image_term, smooth_term = model.loss
adam = tf.keras.optimizers.Adam(settings.learning_rate)
model.compile(adam, loss=[image_term, lambda t, u: stiffness * smooth_term(t, u)])

schedule = tf.keras.callbacks.LambdaCallback(on_batch_end=lambda batch, logs: loosen(batch + 1))
model.fit(data(), steps_per_epoch=steps, callbacks=[schedule], verbose=0)
measure("curriculum, fit()", partial(models.register, model))

# %% [markdown]
# The next cell repeats the training run with `loops.train`, the guarded loop of the previous
# lesson. At the end of each step, the loop calls a function that is passed as
# the argument `after`.

# %%
from vxmlib.methods import loops

model = fresh()
stiffness.assign(10 * settings.lam)
terms = loops.compiled_terms(model, lam=stiffness)
loops.train(model, data(), terms, steps=steps, after=lambda step, *_: loosen(step))
measure("curriculum, loop", partial(models.register, model))

# %% [markdown]
# **Is `fit()` enough?** Yes. The loop gives the same result, up to rounding.
#
# ### A λ that follows a folding budget
#
# Here a rule changes λ so that the percentage of folded voxels stays near the budget `percent`. λ
# starts at a tenth of its usual value. After each step, λ is multiplied by `rate` if this
# percentage is above the budget, and divided by `rate` otherwise. `loops.FoldingBudget` applies
# this rule to a running average of the percentage, in which `memory` is the weight of the earlier
# steps.

# %%
from vxmlib import metrics

rule = {"start": settings.lam / 10, "rate": 1.03, "memory": 0.8}
budget = loops.FoldingBudget(percent=0.05, **rule)


def follow(step, logs, outputs):
    folding = metrics.folding(outputs[-1][0].numpy()).percent
    return {"λ": budget.update(folding), "folding": folding}


# %% [markdown]
# After each step, the loop calls `follow` and adds the returned values to its table of losses.

# %%
model = fresh()
terms = loops.compiled_terms(model, lam=budget.lam)
adapted = loops.train(model, data(), terms, steps=steps, after=follow).set_index("step")
measure("λ by a folding budget, loop", partial(models.register, model))

# %% [markdown]
# In the figure, λ falls at first, because the untrained network produces no folds.

# %% mystnb={"image": {"alt": "Two line plots against the training step. The left plot shows lambda, which rises while average folding is above the budget and falls otherwise. The right plot shows the percentage of folded voxels."}, "figure": {"caption": "λ (left) and the percentage of folded voxels for the training pair (right) at each step, while λ follows the folding budget.", "name": "fig-situations-budget"}}
from vxmlib.book import figures

labels = ["λ", "folded, % of all voxels"]
figures.steps_of({"training pair": adapted}, ["λ", "folding"], labels);

# %% [markdown]
# **Is `fit()` enough?** Nearly. A callback has no access to the displacement of the training pair.
# However, it can register a validation pair every few steps and change λ by the same rule.
#
# ### A discriminator in place of NCC
#
# A [discriminator](../book/glossary.md#discriminator) learns to distinguish warped images from
# well-aligned ones, and the registration network learns to deceive the discriminator
# ([Fan et al. 2019](https://doi.org/10.1016/j.media.2019.101545)). As the well-aligned image, we
# use a weighted mean of the fixed and the moving image, with most of the weight on the fixed image.
# `loops.AdversarialSimilarity` contains the discriminator and its optimiser. The adversarial loss
# differs from NCC in scale, so it requires a separate λ.

# %%
model = fresh()
rival = loops.AdversarialSimilarity(people.shape)
roles = {"second": rival.learn, "after": rival.after}
contest = loops.train(model, data(), rival.objective, steps=steps, **roles)
measure("discriminator, loop", partial(models.register, model))

# %% tags=["remove-input"]
from math import log

judged = contest["discriminator_loss"]
against = results["discriminator, loop"]
Markdown(f"""
The loss of the discriminator changed from {judged.iloc[0]:.2f} at the first step to
{judged.iloc[-20:].mean():.2f}, averaged over the last steps. A discriminator that cannot
distinguish the images has a loss of $2 \\ln 2 \\approx$ {2 * log(2):.2f}.

With the network that was trained against this discriminator, Dice is {against["dice_mean"]:.3f},
compared with {results["identity"]["dice_mean"]:.3f} before registration.
""")

# %% [markdown]
# **Is `fit()` enough?** Yes, with a `train_step` that updates both networks. A loss function alone
# is not enough, because each network has its own optimiser.
#
# ## Situation 2: the gradients are measured or restricted
#
# ### The gradient of each loss term
#
# `fit()` computes only the gradient of the weighted sum of the losses, whereas a `tf.GradientTape`
# can give the gradient of each unweighted loss term for one batch. The table shows the norm of each
# gradient over all trainable weights, before and after training.

# %%
import pandas as pd

batch, model = next(iter(data())), fresh()
norms = {"untrained": loops.gradient_norms(model, batch)}
model.fit(data(), steps_per_epoch=steps, verbose=0)
norms["trained"] = loops.gradient_norms(model, batch)
columns = {"image_loss": "image loss", "smoothness_loss": "smoothness"}
pd.DataFrame(norms).T.rename(columns=columns)

# %% [markdown]
# The displacement of the untrained network is almost 0, so the gradient of the quadratic smoothness
# term is almost 0, too. λ therefore has an effect only after the network has learned to deform the
# image. After training, the gradient of the image loss need not be small. At the minimum, only its
# sum with λ times the gradient of the smoothness loss is 0, and only on average over the training
# pairs.
#
# **Is `fit()` enough?** No, but a tape for one batch is sufficient, so no loop is needed.
#
# ### Two stages
#
# The first stage trains all weights with ten times the usual λ. The second stage freezes the
# encoder and trains the other layers with the usual λ. In Keras, each stage is one call of
# `compile` and one call of `fit()`.

# %%
half = steps // 2
model = fresh(lam=10 * settings.lam)
model.fit(data(), steps_per_epoch=half, verbose=0);
for layer in model.layers:
    layer.trainable = "enc_conv" not in layer.name
adam = tf.keras.optimizers.Adam(settings.learning_rate)
model.compile(adam, loss=model.loss, loss_weights=[1.0, settings.lam])
model.fit(data(start_step=half), steps_per_epoch=steps - half, verbose=0)
measure("two stages, fit()", partial(models.register, model))

# %% [markdown]
# **Is `fit()` enough?** Yes, as the previous cell shows. A loop could also carry the running
# averages of the optimiser over to the second stage (`loops.train(..., variables=...)`).
#
# ## Situation 3: each subject has two contrasts
#
# Some studies have two contrasts of each subject, such as T1 and T2. We simulate the second
# contrast by inverting the intensities inside the head. The network receives both contrasts of the
# moving and of the fixed subject. The image loss compares the warped *first* contrast with the
# *second* contrast of the fixed subject.
#
# Here the two contrasts are computed from the same image, so they always belong to the same
# subject. If you read the contrasts from files, read both files of a subject with the same index.

# %%
def second(image):
    return tf.where(image > 0.02, 1.02 - image, 0.0)


def both(inputs, targets):
    moving, fixed = (tf.concat([x, second(x)], -1) for x in inputs)
    return (moving, fixed), (second(inputs[1]), targets[1])


# %% [markdown]
# `VxmDense` accepts images with several channels. The warped image contains both contrasts, so the
# image loss selects the first channel.

# %%
def across(similarity):
    def image_term(fixed, warped):
        return similarity(fixed, warped[..., :1])

    backend.set_seed(settings.seed)
    model = vxm.networks.VxmDense(people.shape, int_steps=0, src_feats=2, trg_feats=2)
    smooth_term = vxm.losses.Grad("l2").loss
    adam = tf.keras.optimizers.Adam(settings.learning_rate)
    model.compile(adam, loss=[image_term, smooth_term], loss_weights=[1.0, settings.lam])
    return model


# %% [markdown]
# Our `models.register` accepts only one contrast, so the next function registers pairs with two
# contrasts.

# %%
def register_both(model):
    field = tf.keras.Model(model.inputs, model.references.pos_flow)

    def register(moving, fixed):
        images = [tf.constant(x[None, ..., None]) for x in (moving, fixed)]
        inputs = [tf.concat([x, second(x)], -1) for x in images]
        return field(inputs, training=False)[0].numpy()

    return register


# %% [markdown]
# The second contrast is inverted, so its correlation with the first contrast is negative. Like
# voxelmorph's NCC, our NCC counts a negative correlation as 0, so NCC does not reward alignment
# here. We therefore also train with voxelmorph's
# [mutual information](../book/glossary.md#mutual-information), which measures how well the
# intensities of one image predict those of another.

# %% tags=["remove-output"]
from vxmlib import losses

tf.get_logger().setLevel("ERROR")  # neurite's mutual information calls a deprecated function
correlation = losses.LocalNCC().loss
information = vxm.losses.MutualInformation(nb_bins=16).loss

# %% [markdown]
# The next cell trains one model with each image loss. Both models use the λ that was chosen for
# NCC, which may not be the best value for mutual information.

# %%
for name, similarity in {"NCC": correlation, "mutual information": information}.items():
    model = across(similarity)
    model.fit(data().map(both), steps_per_epoch=steps, verbose=0)
    measure(f"two contrasts, {name}, fit()", register_both(model))

# %% [markdown]
# The next cell repeats the training run with mutual information in a loop.

# %%
model = across(information)
terms = loops.compiled_terms(model)
loops.train(model, data().map(both), terms, steps=steps)
measure("two contrasts, mutual information, loop", register_both(model))

# %% tags=["remove-input"]
dice = {name: row["dice_mean"] for name, row in results.items()}
ncc = dice["two contrasts, NCC, fit()"]
by_fit, by_loop = (dice[f"two contrasts, mutual information, {way}"] for way in ("fit()", "loop"))
rounding = abs(by_loop - by_fit)
Markdown(f"""
With NCC, Dice is {ncc:.3f}, compared with {dice["identity"]:.3f} before registration. With mutual
information, Dice is {by_fit:.3f} with `fit()` and {by_loop:.3f} with the loop.
""")

# %% tags=["remove-input"]
Markdown(f"""
The two training runs with mutual information perform the same computation, but add some numbers in
different orders. The difference of {rounding:.3f} in Dice between the two runs is therefore due to
rounding alone. A difference of this size between other variants is not meaningful either.
""")

# %% [markdown]
# **Is `fit()` enough?** Yes. The network accepts two channels, the data set provides both contrasts
# together, and mutual information is used like any other loss.
#
# ## Situation 4: the registration is shown during training
#
# A callback can register a validation pair after any step. The next callback registers one
# validation pair after each of six steps and stores the displacement.

# %%
import numpy as np

moving, fixed = watched[0]
images = people.image(moving), people.image(fixed)
kept = sorted({1, *np.linspace(1, steps, 6).astype(int).tolist()})
film = {}


class Look(tf.keras.callbacks.Callback):
    def on_train_batch_end(self, batch, logs=None):
        if batch + 1 in kept:
            film[batch + 1] = models.register(self.model, *images)


fresh().fit(data(), steps_per_epoch=steps, callbacks=[Look()], verbose=0);

# %% [markdown]
# To compare the registrations, the next cell draws the registered pair for each stored
# displacement.

# %% mystnb={"figure": {"caption": "One validation pair, registered after each of several training steps. Choose a step with the mouse, or with Tab and the arrow keys.", "name": "fig-situations-film"}}
from vxmlib import warp
from vxmlib.book import steppable

frames = []
for step, u in film.items():
    drawn = warp.warp_image(images[0], u), images[1], u, people.brain(fixed)
    frames.append(steppable.registration_step(str(step), *drawn, label="step"))
steppable.steps(frames, name="film", label="step", start=str(kept[-1]))

# %% [markdown]
# **Is `fit()` enough?** Yes, as the callback shows. A custom `train_step` is needed only to show
# values from inside a training step, such as the activations of a layer.
#
# ## Compare what each variant gained
#
# The table shows all scores, measured on the same validation pairs.

# %%
table = pd.DataFrame(results).T.astype(float)
headings = ["Dice", "folded, % of the brain", "SD of log det J"]
table.set_axis(headings, axis=1).round(3)

# %% tags=["remove-input"]
others = table.drop(index=[name for name in table.index if name.startswith(("identity", "fit()"))])
gain = others["dice_mean"] - reference
noise = max(seed_range, rounding)
above = list(gain.index[gain > noise])

# %% tags=["remove-input"]
beyond = "Compared with the reference of the first seed, " + (
    f"these variants raise Dice by more than this range: {'; '.join(above)}."
    if above
    else "no variant raises Dice by more than both this range and the difference due to rounding."
)
Markdown(f"""
Every network is a `VxmDense` that was trained for {steps} steps with {len(people.split["train"])}
subjects, on slices with voxels of {settings.spacing:g} mm. With the first seed, the reference
reaches a Dice of {reference:.3f}, and the range of Dice over the three seeds is {seed_range:.3f}.
{beyond} Each variant was trained only once and for few steps, so even a larger gain would not be
sufficient for a ranking.
""")

# %% tags=["remove-cell"]
result.update(Markdown(f"""
**Result.** In training runs of {steps} steps, the reference (`fit()`) reached a Dice of
{reference:.3f} with the first seed. The range of Dice over three seeds is {seed_range:.3f}.
{beyond} All variants but two ran inside `fit()`. The other two need no loop: a callback could make
λ follow a folding budget, and a `train_step` could train the discriminator.
"""))

# %% tags=["remove-cell"]
keys = {"curriculum, loop": "curriculum", "λ by a folding budget, loop": "λ by a budget"}
keys |= {"discriminator, loop": "discriminator", "two stages, fit()": "two stages"}
keys |= {"two contrasts, mutual information, loop": "two contrasts, MI"}
keys |= {"two contrasts, mutual information, fit()": "two contrasts, MI, fit()"}
keys |= {"two contrasts, NCC, fit()": "two contrasts, NCC"}

# %% tags=["remove-cell"]
same = abs(dice["curriculum, loop"] - dice["curriculum, fit()"]) < 0.005
numbers = {"steps": steps, "rounding": rounding, "seed_range": seed_range}
numbers["methods"] = table.rename(index=keys).to_dict("index")
numbers["inside_fit"] = {"λ by the step": bool(same)}

# %% tags=["remove-cell"]
spent = perf_counter() - began
record = recording.make_record("16_situations", settings, people, seconds=spent, **numbers)
recording.keep_record("16_situations", record)

# %% [markdown]
# ## See how a loop fails
#
# A loop without guards continues after the loss has become NaN, whereas `loops.train` stops and
# reports where it saved the last good weights. The next cell provokes such a failure with a
# learning rate of ten thousand.

# %%
import tempfile
from pathlib import Path

folder = Path(tempfile.mkdtemp())
model = fresh(learning_rate=1e4)
terms = loops.compiled_terms(model)
try:
    loops.train(model, data(), terms, steps=20, keep=folder / "kept.h5", keep_every=1)
except loops.LoopStopped as reason:
    print(str(reason).replace(str(folder), "FOLDER"))

# %% [markdown]
# ## Exercises
#
# **Exercise 1.** Which variants of this page cannot be written without a loop?

# %% [markdown]
# <details><summary>Answer</summary>
#
# None of them needs a loop. The curriculum, the two stages, the two contrasts and the pictures ran
# inside `fit()`. A callback can make λ follow a folding budget on validation pairs, and a
# `train_step` can train a discriminator. A loop can be the simpler choice if you combine several of
# these variants.
#
# </details>
#
# **Exercise 2.** How often did λ change direction, from rising to falling or the reverse, while it
# followed the folding budget?

# %% tags=["hide-cell"] mystnb={"code_prompt_show": "Solution", "code_prompt_hide": "Solution"}
turns = np.diff(np.sign(adapted["λ"].diff().dropna())) != 0
print(f"λ changed direction {int(turns.sum())} times and ended at {float(budget.lam):.3f}")

# %% [markdown]
# ## Summary
#
# - Before you write a loop, try the optimiser's arguments, callbacks, `tf.data` and `train_step`.
# - A loop is needed when two networks or optimisers alternate in ways that `train_step` cannot
#   express, or for research on the training step itself.
# - Compare the Dice and the folding of every variant with those of `fit()` after the same number of
#   steps.
# - Train the reference with several seeds, and compare each gain in Dice with the range over seeds.
# - If you write a loop, make it stop at NaN with a message and save the last good weights.
#
# **Read on:** [Fan et al. 2019](https://doi.org/10.1016/j.media.2019.101545) train a registration
# network with a discriminator.
