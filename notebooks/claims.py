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
# # Check the claims
#
# | | |
# |---|---|
# | **You will** | look up a claim about VoxelMorph, and read whether it holds and which measurement shows this |
# | **You will learn** | which advice you can follow, and which advice holds only under a condition |
# | **You need** | nothing; each row links to the lesson that shows the measurement |
# | **In → out** | the records of all lessons and small experiments → one verdict per claim |
# | **Not here** | claims that could not be measured |
# | **Time** | 2 minutes per table |

# %% [markdown]
# ## Set the parameters
#
# The parameters select the training run whose network the small experiments use.

# %% tags=["parameters"]
cohort = "mni"
profile = "quick"
seed = 0
root = None
image_loss = "ncc"
lam = 1.0
int_steps = 0
spacing = 2.0
learning_rate = 0.001
schedule = "cosine"

# %%
from vxmlib.experiments.settings import read_parameters

settings = read_parameters(globals())

# %% [markdown]
# ## See the verdicts at a glance
#
# The next cell runs the small experiments and reads the records of the other lessons. From these
# numbers, the cell derives the verdict on each claim. It takes one or two minutes.

# %% tags=["remove-output"]
from vxmlib.book import claims_measure

ledger = claims_measure.ledger(settings)

# %% [markdown]
# The table gives the number of claims with each verdict, and the meaning of the verdict.

# %% tags=["remove-input"]
from IPython.display import Markdown

counts = ledger.counts()
Markdown(f"""
| Verdict | Claims | Meaning |
|---|---|---|
| **holds** | {counts["holds"]} | the measurement agrees with the claim |
| **holds with a condition** | {counts["holds with a condition"]} | the measurement agrees with the claim, but only under the condition stated in the row |
| **does not hold** | {counts["does not hold"]} | the measurement contradicts the claim |
| **not replicated in our setting** | {counts["not replicated in our setting"]} | our result, from other data and shorter training, differs from the result of a paper |
| **undecided** | {counts["undecided"]} | the measurements are too uncertain, or too contradictory, for a verdict |
""")

# %% tags=["remove-input"]
key, order, refined = (ledger.numbers[name] for name in ("key", "order", "instance"))
Markdown(f"""
Three of these {sum(counts.values())} results matter most for a reproduction:

1. With NCC, λ = 0.01 folds {key["folded_low"]:.1f} % of the brain on average, so start at λ = 1.
2. The second output of `predict()` is the displacement only if `int_steps` is 0. With the defaults
   of `VxmDense`, it is a velocity at half the resolution.
3. In 3D, the Dice of the network minus that of SyN is {order["difference"]:+.3f}. With instance
   optimisation, this difference becomes {refined["difference"]:+.3f}. A negative difference means
   that SyN has the higher Dice.
""")

# %% [markdown]
# > **Note: How to read the tables**
# >
# > The source "tutorial" is the blog post from which this project started. "Common belief" marks a
# > statement that users repeat without a reference. The two numbers in parentheses after a
# > difference are its 95 percent confidence interval over subjects.
# >
# > The papers use other data than we do, and some train on thousands of scans at 1 mm. We therefore
# > never call a paper's claim wrong, but only say whether we replicated it in our setting.

# %% [markdown]
# ## Training with `fit()`
#
# The tutorial's main advice is to configure the model, the losses and the data correctly, and to
# leave the training to `fit()`. The table confirms most of this advice. The measurements use
# voxelmorph version 0.2 and the data of this build. The code is in `claims_measure.py` (function
# `interface`) and in `claims_verdicts.py`, both in `vxmlib/book`.

# %% tags=["remove-input"]
Markdown(ledger.table("interface"))

# %% [markdown]
# ## Losses and targets
#
# The claims about losses are tested on two validation subjects of this build
# (`claims_measure.losses`).

# %% tags=["remove-input"]
Markdown(ledger.table("losses"))

# %% [markdown]
# ## λ and folding
#
# The numbers below come from training runs at many values of λ, whose records are stored with the
# book. The standard `VxmDense` was trained on coronal slices of 15 subjects at 2 mm. Each λ has
# three runs of 1000 steps, with different seeds (`claims_records.all_of_lam`). Folding is given in
# percent of the brain.

# %% tags=["remove-input"]
Markdown(ledger.table("lam"))

# %% [markdown]
# ## Training settings
#
# The numbers below come from short training runs on coronal slices of real subjects and from one
# longer training run in 3D (`claims_records.trainings`). Each setting on slices has three runs of
# 2000 steps, with different seeds.

# %% tags=["remove-input"]
Markdown(ledger.table("trainings"))

# %% [markdown]
# ## Labels and Dice
#
# Most claims about labels are tested on one pair of validation subjects, on which the network was
# not trained (`claims_measure.labels`).

# %% tags=["remove-input"]
Markdown(ledger.table("labels"))

# %% [markdown]
# ## The Jacobian
#
# Two rows use a displacement that mirrors the grid. This displacement folds everywhere, so a
# correct measure counts every voxel as folded (`claims_measure.jacobian`).

# %% tags=["remove-input"]
Markdown(ledger.table("jacobian"))

# %% [markdown]
# ## Files, arguments and packages
#
# For the claims about files, a compiled model was trained for a few steps, saved in each format,
# and loaded again (`claims_measure.files`).

# %% tags=["remove-input"]
Markdown(ledger.table("files"))

# %% [markdown]
# ## Results of the papers
#
# The comparison in 3D covers 23 structures in all ordered pairs of ten real test subjects. The
# network is the strided U-Net of the 2018 paper, and it was trained once (`claims_records.papers`).
# "CC" is the paper's name for local NCC. The rows about the authors' weights use the two scans that
# the authors published.

# %% tags=["remove-input"]
Markdown(ledger.table("papers"))

# %% [markdown]
# ## Training loops
#
# Almost nobody needs a custom training loop; for the exceptions, see [Four
# situations](16_situations.ipynb). The training runs behind these rows are short, and each variant
# was trained with one seed (`claims_records.loops`).

# %% tags=["remove-input"]
Markdown(ledger.table("loops"))

# %% tags=["remove-cell"]
from vxmlib.experiments import recording, runs

recording.keep_record(
    "claims",
    recording.make_record(
        "claims",
        settings,
        runs.load_cohort(settings),
        seconds=None,
        counts=counts,
        total=sum(counts.values()),
        rows=ledger.claims.drop(columns=["condition"]).reset_index().to_dict("records"),
    ),
)

# %% [markdown]
# ## Exercises
#
# **Exercise 1.** A rule computes each verdict from the measured numbers. Assume that Dice is higher
# at λ = 0.01 than at λ = 1. At what percentage of folded voxels in the brain would the verdict on
# λ = 0.01 change?

# %% tags=["hide-cell"] mystnb={"code_prompt_show": "Solution", "code_prompt_hide": "Solution"}
from vxmlib.book.claims_verdicts import RULES

measured = ledger.numbers["key"] | {"dice_low": 0.70, "dice_one": 0.69}
for folded in (2.0, 1.1, 0.9):
    print(folded, RULES["key"](measured | {"folded_low": folded}))

# %% [markdown]
# The verdict changes when less than one percent of the brain folds. The rule requires less than one
# percent of folded voxels *and* at least the Dice of λ = 1. The measured Dice is lower than at
# λ = 1, so the cell replaces it with an invented value.
#
# **Exercise 2.** Why is the claim about curricula, adversarial losses and an adaptive λ undecided,
# although two of the three methods have a higher Dice than `fit()`?
#
# <details><summary>Answer</summary>
#
# The claim names three methods, and only two of them have a higher Dice than `fit()`. Moreover,
# each method was trained only once. The lesson trains `fit()` with three seeds, and the Dice of
# these three runs differs by more than either gain. Rounding alone also changes Dice slightly.
#
# </details>
#
# ## Summary
#
# - Most of the tutorial's advice on `fit()` holds. Its value of λ, its use of the second output of
#   `predict()` and some of its claims about labels do not.
# - Several results of the papers were not replicated in our setting, which has few training
#   subjects at 2 mm.
# - Many mistakes raise no error, so measure the result before you trust it.
#
# **Read on:** To start from a symptom instead of a claim, see [Find what is
# wrong](troubleshooting.ipynb).
