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
# # A run that takes no time

# %% tags=["parameters"]
cohort = "mni"
profile = "quick"
seed = 0
image_loss = "ncc"
lam = 1.0
int_steps = 0
spacing = 2.0
learning_rate = None
schedule = "constant"
evaluate = "validation"
beside = []

# %%
import os
from pathlib import Path

from vxmlib import records
from vxmlib.experiments.settings import read_parameters

settings = read_parameters(globals())


class NonFiniteLoss(ValueError):
    """Stands for that of vxmlib.training."""


if lam == 100:
    raise NonFiniteLoss("the loss became nan at step 3")
if lam == 7:
    raise RuntimeError("this lesson has a mistake")
assert beside == []

# %%
record = records.provenance(
    "06_lambda",
    cohort=cohort,
    profile=profile,
    seed=seed,
    parameters=settings.parameters,
    seconds=0.1,
)
record["metrics"] = {"diverged": False, "split": evaluate, "dice_mean": 1 - lam / 10}
path = Path(os.environ["VXMLIB_OUTPUT"], "06_lambda", f"{settings.name}.json")
records.write(path, record)
