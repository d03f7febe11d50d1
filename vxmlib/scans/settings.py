"""Options of a registration and the files that it writes; without TensorFlow, for `--help`."""

#: Voxel sizes in mm at which a pair can be optimised. The network always works at 2 mm.
SPACINGS = (2.0, 1.0)
#: How a scan can be aligned to the template.
ALIGNMENTS = ("affine", "centre", "none")
#: Number of steps of instance optimisation, and its settings. They were chosen on validation pairs
#: of the comparison in 3D.
STEPS = 5
OPTIMISER = {"image_loss": "ncc", "lam": 1.0, "learning_rate": 0.4, "folding_weight": 5.0}
#: Files in the folder of results, and what each of them is.
FILES = {
    "warped.nii.gz": "the moving scan on the grid of the fixed scan",
    "warped_labels.nii.gz": "the label map of the moving scan on this grid",
    "warp.nii.gz": "the displacement on this grid, for ANTs, ITK and 3D Slicer",
    "inverse_warp.nii.gz": "the inverse displacement, on the grid of the moving scan",
    "affine.txt": "the affine part alone, as a transform of ITK",
    "landmarks.csv": "the landmarks, moved to the fixed scan",
    "report.json": "settings, versions, measures and times",
    "report.html": "the same with pictures",
}
