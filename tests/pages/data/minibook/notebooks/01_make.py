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
# # 1. Make a value
#
# The value is {glue:text}`value:.2f`, a {term}`thing` {cite}`someone2020`.

# %% tags=["parameters"]
cohort = "mni"
profile = "quick"
seed = 0

# %% [markdown]
# ## Draw it

# %% mystnb={"image": {"alt": "A line that rises"}, "figure": {"caption": "It ends at {glue:text}`value:.1f`.", "name": "fig-rise"}}
import matplotlib.pyplot as plt

fig, ax = plt.subplots()
ax.plot([0, seed + 0.25])
fig;
# %% tags=["remove-cell"]
import os
from pathlib import Path

from myst_nb import glue

value = seed + 0.25
glue("value", value, display=False)
folder = Path(os.environ["VXMLIB_OUTPUT"]) / "01_make"
(folder / "value.txt").write_text(f"{value}\n")

# %%
print(folder)
