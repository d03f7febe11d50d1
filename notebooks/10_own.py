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
# # Register two scans of your own
#
# | | |
# |---|---|
# | **You will** | register two scan files with a trained network, and apply the warp in other programs |
# | **You will learn** | how a displacement on the network's grid becomes one displacement between two scans, and in which direction labels and landmarks move |
# | **You need** | two skull-stripped T1 scans, or the simulated ones of this page |
# | **In → out** | two scans, and optionally label maps and landmarks → warped files, a displacement for ITK, ANTs and 3D Slicer, and a report |
# | **Not here** | training on your own scans, which is `cohort = "own"` in [the other lessons](01_data.ipynb) |
# | **Time** | 15 minutes |

# %% [markdown]
# One command registers a moving scan to a fixed scan and writes a folder of results:
#
# ```sh
# vxmlib register moving.nii.gz fixed.nii.gz --out result
# ```
#
# The command uses a network that is stored in the repository, so nothing has to be trained. `vxmlib
# register --help` lists all options. This page calls the Python function behind the command, explains
# its steps, and checks its files with another program.
#
# > **Warning: Know for whom the network is meant**
# > The network was trained on T1 scans of fifteen adults (`malf`). Expect worse results for
# > children, for brains with tumours or strong atrophy, and for other contrasts such as T2. Look at the
# > report before you use a result. This program is no medical device.

# %% [markdown]
# ## Set the parameters
#
# Without `moving` and `fixed`, the page writes two simulated heads and registers them. To register
# your own scans, set these parameters, for example with `papermill notebooks/10_own.ipynb out.ipynb -p
# moving A.nii.gz -p fixed B.nii.gz`. The label maps and the landmarks are optional. `optimise` is the
# number of steps of [instance optimisation](13_instance.ipynb), and `out` is the folder of results.

# %% tags=["parameters"]
cohort = "mni"
profile = "quick"
seed = 0
root = None
moving = None
fixed = None
moving_labels = None
fixed_labels = None
landmarks = None
weights = None
optimise = 5
out = None

# %%
from pathlib import Path

from vxmlib.book import examples
from vxmlib.experiments import runs
from vxmlib.experiments.settings import read_parameters

settings = read_parameters(globals())
folder = runs.output_folder() / "10_own"
names = ("moving", "fixed", "moving_labels", "fixed_labels", "landmarks")
files = {name: globals()[name] for name in names if globals()[name]}
simulated = not files
if simulated:
    files = examples.two_scans(folder / "scans", coarse=2 if settings.profile == "smoke" else 1)

# %% [markdown]
# The next cell reads both headers with nibabel. The grids of the simulated heads are awkward on purpose:
# they are oblique, and differ in voxel size and in the order of their axes.

# %%
import nibabel as nib

for name in ("moving", "fixed"):
    scan = nib.load(files[name])
    sizes = " x ".join(f"{size:.2f}" for size in scan.header.get_zooms()[:3])
    print(f"{name:7} {scan.shape}, {sizes} mm, axes to {nib.aff2axcodes(scan.affine)}")

# %% [markdown]
# ## See the result first
#
# `register_files` does the same as the command `vxmlib register`. It prints each step when the step
# begins.

# %%
from vxmlib.scans.outputs import register_files

result = Path(out) if out else folder / "result"
inputs = {name: files[name] for name in names[2:] if name in files}
record = register_files(
    files["moving"], files["fixed"], result, **inputs,
    weights=weights, steps=optimise, overwrite=not out, say=print,
)

# %% [markdown]
# The folder contains these files:

# %%
import pandas as pd

from vxmlib.scans.settings import FILES

written = {name: text for name, text in FILES.items() if (result / name).exists()}
pd.Series(written, name="content").to_frame().style

# %% [markdown]
# `report.html` is a page that needs no other file. It shows the scans before and after the
# registration and lists all measures. Drag in a plane to move the cross, and drag the head to turn it.
# Choose "fade" to compare the registered scan with the fixed scan, or "growth" to see where the
# displacement enlarges or shrinks the brain.

# %% tags=["hide-input"]
from IPython.display import HTML

from vxmlib.scans import viewer

HTML(viewer.frame((result / "report.html").read_text(encoding="utf-8"), title="Report of this pair"))

# %% tags=["remove-cell"]
import numpy as np
from IPython.display import Markdown

measures = record["metrics"]
overlap = {name: np.mean(list(measures[name].values())) for name in ("dice_affine", "dice") if name in measures}
dice = (
    f"The mean Dice of the structures rises from {overlap['dice_affine']:.3f} after the affine alignment to "
    f"{overlap['dice']:.3f}. " if len(overlap) == 2 else ""
)

# %% tags=["remove-input"]
Markdown(f"""
{dice}The correlation of the intensities in the fixed brain changes from
{measures["correlation_affine"]:.3f} to {measures["correlation"]:.3f}, and
{measures["folding_percent_brain"]:.3f} % of the brain is folded. All steps together took
{record["seconds"]:.0f} seconds and {measures["memory_gb"]:.1f} GB of memory on this machine.
""")

# %% [markdown]
# ## Follow the steps
#
# 1. **Read and check both scans.** NIfTI, Analyze with a position, and FreeSurfer's `.mgz` are read, in
#    any orientation and voxel size.
# 2. **Align each scan to the template.** SimpleITK computes an affine matrix for each scan within seconds.
#    In [Prepare the data](01_data.ipynb), ANTs does the same. The network was trained on scans that were
#    aligned to this template.
# 3. **Resample and normalise.** Both scans are resampled to the network's grid of 2 mm, and their
#    intensities are scaled to [0, 1].
# 4. **Apply the network.** It makes [two passes](13_instance.ipynb), each averaged with the pass of the
#    mirrored pair.
# 5. **Optimise.** A few steps of [instance optimisation](13_instance.ipynb) improve the displacement of
#    this pair. The loss has a term that prevents folds.
# 6. **Compose.** The two matrices and the displacement become one displacement on the grid of the fixed
#    scan.
#
# The next cell shows the seconds of each step.

# %%
pd.Series(record["metrics"]["seconds"], name="seconds").round(1).to_frame()

# %% [markdown]
# ## Know the time and the memory
#
# The next table repeats a record of both voxel sizes on two CPU cores. The two heads of this page were
# registered, with label maps and five steps of optimisation. The memory is the largest amount that the
# process used. With voxels of 1 mm, the displacement of the network at 2 mm is optimised at 1 mm
# (`--spacing 1.0`). For these heads, this takes longer without a higher Dice.

# %%
from vxmlib.experiments.results import committed_record

limits = pd.DataFrame(committed_record("own/limits.json")["metrics"]["rows"]).set_index("spacing")
words = {"seconds": "seconds", "seconds_optimise": "optimising", "memory_gb": "GB", "dice": "Dice"}
shown = limits[list(words)].rename(columns=words).rename_axis("voxels, mm").style.format(precision=1)
shown.format("{:.3f}", subset="Dice").format_index("{:g}")

# %% [markdown]
# ## Compose before you interpolate
#
# Let $A_f$ and $A_m$ be the matrices that map a position in the template to the fixed and to the moving
# scan, and let $u$ be the displacement on the network's grid, in millimetres. A position $p$ in the fixed
# scan then corresponds to this position in the moving scan:
#
# $$T(p) = A_m\,\bigl(q + u(q)\bigr), \qquad q = A_f^{-1}\,p$$
#
# The displacement that is written is $T(p) - p$ at each voxel of the fixed scan. Because all three maps
# are composed first, the moving scan is interpolated only once, from its original voxels. Had we warped
# the image of 2 mm and resampled it back, the result would be blurred.
#
# ## Apply the warp in another program
#
# ITK measures millimetres to the Left, Posterior and Superior (LPS), while nibabel measures to the Right,
# Anterior and Superior (RAS). `vxmlib` converts the displacement when it writes the file. The next cell
# reads this file with SimpleITK and warps the original moving scan, without `vxmlib`.

# %%
import SimpleITK as sitk

field = sitk.Cast(sitk.ReadImage(str(result / "warp.nii.gz")), sitk.sitkVectorFloat64)
transform = sitk.DisplacementFieldTransform(field)
original, target = (sitk.ReadImage(str(files[name])) for name in ("moving", "fixed"))
theirs = sitk.GetArrayFromImage(sitk.Resample(original, target, transform, sitk.sitkLinear, 0.0))

# %% [markdown]
# SimpleITK's arrays have the axes in reverse order. The next cell compares them with our warped scan.

# %%
import numpy as np

ours = nib.load(result / "warped.nii.gz").get_fdata()
difference = np.abs(theirs.T - ours).max() / ours.max()
print(f"largest difference: {100 * difference:.3f} % of the highest intensity")

# %% [markdown]
# ANTs reads the same file:
#
# ```sh
# antsApplyTransforms -d 3 -i moving.nii.gz -r fixed.nii.gz -t result/warp.nii.gz -o warped.nii.gz
# antsApplyTransforms -d 3 -i moving_labels.nii.gz -r fixed.nii.gz -t result/warp.nii.gz \
#     -n NearestNeighbor -o warped_labels.nii.gz
# ```
#
# In 3D Slicer, load `warp.nii.gz` as a *transform*, and apply it to the moving scan in the module
# Transforms.
#
# ## Move landmarks in the other direction
#
# The displacement answers a question about a voxel of the *fixed* scan: where does its intensity come
# from? For a landmark that was set on the *moving* scan, the question is the opposite: where does it go
# to? Points are therefore moved by the inverse. In the table of landmarks, the columns have to state the
# direction of the axes: `x_ras`, `y_ras` and `z_ras`, or `x_lps`, `y_lps` and `z_lps`.

# %%
if simulated:
    columns = ["x_ras", "y_ras", "z_ras"]
    moved, truth = (pd.read_csv(path) for path in (result / "landmarks.csv", files["truth"]))
    errors = np.linalg.norm(moved[columns] - truth[columns], axis=1)
    print(f"error of {len(errors)} landmarks: median {np.median(errors):.1f} mm")

# %% [markdown]
# For simulated heads, the true positions are known. The middles of structures are difficult landmarks,
# because the image has no edges there. A displacement is only interpolated between the edges around
# them.
#
# What happens if the landmarks are moved in the wrong direction? The next cell applies `warp.nii.gz`
# itself, with SimpleITK.

# %%
if simulated:
    points = pd.read_csv(files["landmarks"])[columns].to_numpy() * [-1, -1, 1]  # RAS to LPS
    wrong = np.array([transform.TransformPoint(point) for point in points]) * [-1, -1, 1]
    errors = np.linalg.norm(wrong - truth[columns], axis=1)
    print(f"wrong direction: median {np.median(errors):.1f} mm")

# %% [markdown]
# ## Choose a command
#
# | I have | I want | Command |
# |---|---|---|
# | two scans | the warp and a report | `vxmlib register A.nii.gz B.nii.gz --out result` |
# | a label map of A | the labels on B | add `--moving-labels A_seg.nii.gz` |
# | label maps of A and B | Dice | add `--fixed-labels B_seg.nii.gz`, too |
# | landmarks on A | the landmarks on B | add `--landmarks A.csv` |
# | little time | the network alone | add `--steps 0` |
# | scans in MNI space | no alignment | add `--align none` |
# | a network of my own | that network | add `--weights model.h5` |
# | a folder of scans | a network for them | set `cohort = "own"` and `root` in [Compile and fit](03_fit.ipynb) |
#
# ## Know what is refused
#
# A scan that cannot be registered is refused before anything is computed, and the message says what to
# do. The next cell shows the message for a scan whose skull was not removed. For this purpose, it adds
# a shell to the fixed scan.

# %%
from vxmlib.book.errors import error_of
from vxmlib.scans.inputs import Scan, read_scan
from vxmlib.scans.register import register

first, second = (read_scan(files[name]) for name in ("moving", "fixed"))
index = np.argwhere(second.image > 0)
ellipsoid = (np.moveaxis(np.indices(second.image.shape), 0, -1) - index.mean(axis=0)) / np.ptp(index, axis=0)
radius = 2 * np.linalg.norm(ellipsoid, axis=-1)
head = np.where((radius > 1.05) & (radius < 1.3), second.image.max() / 2, second.image)
print(error_of(lambda: register(first, Scan(Path("head.nii.gz"), head, second.affine))))

# %% [markdown]
# The other checks concern files that cannot be read, series of volumes, slices, headers without a
# position, label maps on another grid, landmarks outside of the scan, half brains, and weights of another
# network. Tools that remove the skull are HD-BET, SynthStrip and ANTs.
#
# ## Exercises
#
# **Exercise 1.** Compute the Jacobian determinant of the written displacement. How many voxels of the
# fixed brain fold?

# %% tags=["hide-cell"] mystnb={"code_prompt_show": "Solution", "code_prompt_hide": "Solution"}
from vxmlib import metrics, nifti

displacement, _ = nifti.read_displacement(result / "warp.nii.gz")
print(metrics.folding(displacement, second.image > 0))

# %% [markdown]
# **Exercise 2.** Read `affine.txt` with SimpleITK and move the landmarks of the moving scan by its
# inverse. By how much is the error larger than with the complete registration?

# %% tags=["hide-cell"] mystnb={"code_prompt_show": "Solution", "code_prompt_hide": "Solution"}
if simulated:
    inverse = sitk.ReadTransform(str(result / "affine.txt")).GetInverse()
    affine_only = np.array([inverse.TransformPoint(point) for point in points]) * [-1, -1, 1]
    errors = np.linalg.norm(affine_only - truth[columns], axis=1)
    print(f"affine part alone: median {np.median(errors):.1f} mm")

# %% [markdown]
# ## Summary
#
# - A network needs aligned, normalised scans on its grid, but its displacement can be composed with the
#   alignment, so the result has the grid of the fixed scan.
# - Interpolate the moving scan once.
# - Images and labels are pulled by the displacement. Points are pushed by its inverse.
# - State RAS or LPS with every coordinate.
# - Check a warp in a second program before you trust it.
#
# **Read on:** In [Improve one pair](13_instance.ipynb), the displacement of one pair is optimised. [Find
# what is wrong](troubleshooting.ipynb) lists problems with scans of your own.
