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
# | **You will** | look up a claim about VoxelMorph, its verdict, and the measurement behind the verdict |
# | **You will learn** | which advice is valid, and which is valid only under a condition |
# | **You need** | nothing; each row links to the lesson that shows the measurement |
# | **In → out** | the records of the lessons, and small experiments → one verdict per claim |
# | **Not here** | claims that we could not test |
# | **Time** | 2 minutes per table |

# %% [markdown]
# ## Set the parameters
#
# The parameters select the trained network that the small experiments use.

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
# The next cell runs the small experiments and reads the records of the other lessons. From the
# results, the cell derives the verdict on each claim. This takes one or two minutes.

# %% tags=["remove-output"]
from vxmlib.book import claims_measure

ledger = claims_measure.ledger(settings)

# %% [markdown]
# The table gives the meaning of each verdict and the number of claims.

# %% tags=["remove-input"]
from IPython.display import Markdown

counts = ledger.counts()
Markdown(f"""
| Verdict | Claims | Meaning |
|---|---|---|
| **holds** | {counts["holds"]} | the measurement agrees with the claim |
| **holds with a condition** | {counts["holds with a condition"]} | the measurement agrees with the claim, but only under the condition stated in the row |
| **does not hold** | {counts["does not hold"]} | the measurement contradicts the claim |
| **not replicated in our setting** | {counts["not replicated in our setting"]} | our result, from different data and shorter training, differs from that of the paper |
| **undecided** | {counts["undecided"]} | the measurements are too uncertain, or too contradictory, for a verdict |
""")

# %% tags=["remove-input"]
key, order, refined = (ledger.numbers[name] for name in ("key", "order", "instance"))
Markdown(f"""
Three of the {sum(counts.values())} results are the most important for a reproduction:

1. With NCC and λ = 0.01, {key["folded_low"]:.1f} % of the brain folds on average over the pairs of
   real slices. Start with λ = 1.
2. The second output of `predict()` is the displacement only if `int_steps` is 0. With the defaults
   of `VxmDense`, it is a velocity at half the resolution.
3. In 3D, the mean Dice of the network minus that of SyN is {order["difference"]:+.3f}. If instance
   optimisation follows the network, the difference is {refined["difference"]:+.3f}. A negative
   difference means that Dice is higher with SyN.
""")

# %% [markdown]
# > **Note: How to read the tables**
# >
# > The source "tutorial" is the blog post from which this project started. "Common belief" marks a
# > statement that users repeat without a reference. The numbers in parentheses after a difference
# > are the limits of its 95 percent confidence interval over subjects.
# >
# > The data of the papers differ from ours, and some papers use thousands of scans at 1 mm. We
# > therefore never call a paper's claim wrong, but only state whether we replicated it in our
# > setting.

# %% [markdown]
# ## Training with `fit()`
#
# The tutorial's main advice is to configure the model, the losses and the data correctly, and to
# leave the training to `fit()`. The measurements, made with voxelmorph version 0.2 and the data of
# this build, confirm most of this advice. The code is in `claims_measure.py` (function `interface`)
# and in `claims_verdicts.py`, both in `vxmlib/book`.

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
# book. The standard `VxmDense` was trained on coronal slices of 15 subjects at 2 mm. At each λ, it
# was trained three times for 1000 steps, with different seeds (`claims_records.all_of_lam`).
# Folding is given as a percentage of the brain.

# %% tags=["remove-input"]
Markdown(ledger.table("lam"))

# %% [markdown]
# ## Training settings
#
# The numbers below come from short training runs on coronal slices of real subjects and from one
# longer training run in 3D (`claims_records.trainings`). On slices, each setting was trained three
# times for 2000 steps, with different seeds.

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
# Two rows use a displacement that mirrors the grid. This displacement folds the grid everywhere, so
# a correct measure counts every voxel as folded (`claims_measure.jacobian`).

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
# The comparison in 3D covers 23 structures in all ordered pairs of ten real test subjects. All
# networks are versions of the strided U-Net of the 2018 paper, each trained once
# (`claims_records.papers`). "CC" is the paper's name for local NCC. The rows about the authors'
# weights use the two scans that the authors published.

# %% tags=["remove-input"]
Markdown(ledger.table("papers"))

# %% [markdown]
# ## Training loops
#
# A custom training loop is rarely needed; for exceptions, see [Four
# situations](16_situations.ipynb). The training runs for these rows are short, with one seed per
# variant (`claims_records.loops`).

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
# **Exercise 1.** A rule computes the verdict on each claim from the measured numbers. Assume that
# Dice is higher at λ = 0.01 than at λ = 1. At what percentage of folded voxels in the brain would
# the verdict on the claim about λ = 0.01 change?

# %% tags=["hide-cell"] mystnb={"code_prompt_show": "Solution", "code_prompt_hide": "Solution"}
from vxmlib.book.claims_verdicts import RULES

measured = ledger.numbers["key"] | {"dice_low": 0.70, "dice_one": 0.69}
for folded in (2.0, 1.1, 0.9):
    print(folded, RULES["key"](measured | {"folded_low": folded}))

# %% [markdown]
# The verdict changes when less than one percent of the brain folds. The rule requires less than one
# percent of folded voxels *and* a Dice at least as high as at λ = 1. The measured Dice at λ = 0.01
# is lower than at λ = 1, so the cell uses invented Dice values.
#
# **Exercise 2.** Why is the claim about curricula, adversarial losses and an adaptive λ undecided,
# although two of the three methods have a higher Dice than `fit()`?
#
# <details><summary>Answer</summary>
#
# The claim names three methods, but only two of them have a higher Dice than `fit()`. Moreover,
# each method was trained only once. The Dice of the lesson's three runs of `fit()` with different
# seeds varies by more than either gain. Rounding alone also changes Dice slightly.
#
# </details>
#
# ## Summary
#
# - Most of the tutorial's advice on `fit()` is correct. The tutorial's value of λ, its use of the
#   second output of `predict()` and some of its claims about labels are not.
# - Several results of the papers were not replicated in our setting, with few training subjects and
#   voxels of 2 mm.
# - Many mistakes raise no error, so measure the result before you trust it.
#
# **Read on:** To start from a symptom instead of a claim, see [Find what is
# wrong](troubleshooting.ipynb).
