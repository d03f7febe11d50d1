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
# # 2. Use the value
#
# After [lesson 1](01_make.ipynb) and its {numref}`fig-rise`.

# %% tags=["parameters"]
cohort = "mni"
profile = "quick"
seed = 0

# %% [markdown]
# ## Read it

# %%
import os
from pathlib import Path

made = Path(os.environ["VXMLIB_OUTPUT"]) / "01_make" / "value.txt"
float(made.read_text())
