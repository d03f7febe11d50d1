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
# # Compare the choices of a training: ablations and repeated passes
#
# | | |
# |---|---|
# | **You will** | - |
# | **You will learn** | - |
# | **You need** | - |

# %% tags=["parameters"]
cohort = "mni"
profile = "quick"
seed = 0
root = None
