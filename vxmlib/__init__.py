"""Helpers for reproducing VoxelMorph: the recipe in the top-level modules, and five subpackages.

The recipe has one module for each step. In the order in which a training run uses them:

- `cohorts`: load a data set: its subjects, their images and label maps, and its split
- `pairs`: draw pairs of training images, as a `tf.data.Dataset`
- `augment`: augment training images by random reflections, linear maps, shifts and deformations
- `losses`: look up an image loss by name
- `models`: build, compile, save and load VxmDense, and register a pair with it
- `training`: train with Keras' `fit()`: callbacks, learning-rate schedule, resuming
- `warp`: warp images and label maps; compose, invert and integrate displacements
- `metrics`: measure a registration: Dice, surface distance, Jacobian determinant, folded voxels
- `records`: write the result of a run as one JSON file, and read it

The recipe uses these modules:

- `preprocess`: prepare a scan for the network: reorient, resample, normalise, crop or pad
- `nifti`: read and write NIfTI files, and displacements in the convention of ITK, ANTs and Slicer
- `fetch`: download a public file and check its hash
- `axes`: reflect images and label maps about the midplane, and describe a voxel grid to ITK
- `checks`: validate arguments, with error messages that say what was expected
- `files`: write files atomically, lock a folder, read YAML and validate it with a schema
- `backend`: import TensorFlow, Keras, voxelmorph and neurite so that they work together

`sources` has one module for each data set, which `cohorts.load` calls, and their shared code:

- `sources.simulate`: simulated subjects, made by deforming the MNI template (cohort `mni`)
- `sources.malf`: the MICCAI 2012 multi-atlas data: 35 scans of 30 subjects, manual labels
- `sources.vxm2018`: the two scans that the authors of VoxelMorph published
- `sources.own`: a folder with your own scans
- `sources.lpba40`: read the unpacked LPBA40 archive
- `sources.oasis`: read the unpacked neurite-OASIS archive
- `sources.archive`: locate the files of an unpacked archive
- `sources.template`: the MNI template, and the voxel grid to which most cohorts are resampled
- `sources.labels`: names and label numbers of the anatomical structures
- `sources.align`: compute the affine alignment of a scan to the template

`networks` has networks that are not part of voxelmorph 0.2, and looks up networks by name:

- `networks.strided`: the strided U-Net of the papers, trainable, with the interface of VxmDense
- `networks.cvpr2018`: the network of the CVPR 2018 paper, with the authors' weights
- `networks.hyper`: HyperMorph, a single network for all values of λ
- `networks.precision`: build a network whose convolutions compute in bfloat16

`methods` computes displacements in other ways than by one pass of a network trained with `fit()`:

- `methods.baselines`: the classical methods SyN (ANTs) and demons (SimpleITK)
- `methods.passes`: apply a network to a pair repeatedly, and compose the displacements
- `methods.instance`: optimise the displacement of one pair
- `methods.loops`: custom training loops, for tasks that `fit()` cannot do

`experiments` covers the steps from the settings of a run to statistics:

- `experiments.settings`: read and check the settings of a run: a lesson's parameters and a profile
- `experiments.runs`: train one model from its settings, or reuse an earlier run with the same ones
- `experiments.recording`: evaluate a run, and write its record with its provenance
- `experiments.sweep`: list the runs of a λ sweep, read their records, and choose λ
- `experiments.hyper_curve`: train one HyperMorph network and evaluate it over a grid of λ
- `experiments.plan`: read `config/real.yaml`: the training runs and methods of the 3D comparison
- `experiments.benchmark`: carry out this plan: training runs, ablation, measurements, run times
- `experiments.stepwise`: measure after each step of an optimisation, or after each pass
- `experiments.trained`: load a network that was trained for this plan, and register pairs with it
- `experiments.compare`: evaluate a method on each pair in both directions; can be resumed
- `experiments.results`: read the records that are stored in the repository, as tables
- `experiments.statistics`: paired differences with bootstrap confidence intervals
- `experiments.dependencies`: list the files on which the result of a lesson or a run depends

`book` is used only by the pages of the book:

- `book.figures`: draw the figures
- `book.steppable`: figures that the reader steps through
- `book.claims`: the list of claims about VoxelMorph, with a verdict and a table row for each
- `book.claims_verdicts`: the rules that decide a claim from its numbers
- `book.claims_records`: numbers for claims, from the records of lessons and from stored records
- `book.claims_measure`: numbers for claims, from small experiments with voxelmorph and Keras
- `book.errors`: return the error that a call raises, as one line
- `book.examples`: write the example files that two pages read: one raw scan, and coronal slices
"""
