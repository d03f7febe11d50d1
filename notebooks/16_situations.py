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
# # Write a loop of your own: four situations
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
