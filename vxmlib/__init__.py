"""Helpers for reproducing VoxelMorph: the recipe in the top-level modules, and five subpackages.

The recipe has one module for each step. In the order in which a run uses them:

- `cohorts`: load a data set as a list of subjects, with images, label maps and a split
- `pairs`: draw pairs of training images, as a `tf.data.Dataset`
- `augment`: random augmentation of training images: mirrored, tilted, shifted, bent
- `losses`: the image losses, by name
- `models`: build, compile, save and load VxmDense, and register a pair with it
- `training`: train with Keras' `fit()`: callbacks, learning-rate schedule, resuming
- `warp`: warp images and label maps; compose, invert and integrate displacements
- `metrics`: measure a registration: Dice, surface distance, Jacobian determinant, folded voxels
- `records`: write the result of a run as one JSON file, and read it

The recipe uses these modules:

- `preprocess`: prepare a scan for the network: reorient, resample, normalise, crop or pad
- `nifti`: read and write NIfTI files, and displacements as ITK, ANTs and Slicer store them
- `fetch`: download a public file and check its hash
- `axes`: anatomical axes: mirror about the midplane, describe a grid to ITK (RAS and LPS)
- `checks`: validate arguments, with an error that says what is allowed
- `files`: write files atomically, lock a folder, read YAML and validate it by a schema
- `backend`: import TensorFlow, Keras, voxelmorph and neurite so that they work together

`sources` has one module for each data set, which `cohorts.load` calls, and their shared code:

- `sources.simulate`: simulated subjects, made by deforming the MNI template (cohort `mni`)
- `sources.malf`: the MICCAI 2012 multi-atlas data: 35 scans of 30 subjects, manual labels
- `sources.vxm2018`: the two scans that the authors of VoxelMorph published
- `sources.own`: a folder of your own scans
- `sources.lpba40`: read the unpacked LPBA40 archive
- `sources.oasis`: read the unpacked neurite-OASIS archive
- `sources.archive`: locate the files of an unpacked archive
- `sources.template`: the MNI template, and the voxel grid that most cohorts are resampled to
- `sources.labels`: names and label numbers of the anatomical structures
- `sources.align`: compute the affine alignment of a scan to the template

`networks` has networks that are not part of voxelmorph 0.2, and finds a network by its name:

- `networks.strided`: the strided U-Net of the papers, to train, with the interface of VxmDense
- `networks.cvpr2018`: the network of the CVPR 2018 paper, with the authors' weights
- `networks.hyper`: HyperMorph, a single network for all values of λ

`methods` has other ways to compute a displacement than `fit()` and one pass of a network:

- `methods.baselines`: the classical methods SyN (ANTs) and demons (SimpleITK)
- `methods.passes`: apply a network to a pair repeatedly, and compose the displacements
- `methods.instance`: optimise the displacement of one pair
- `methods.loops`: custom training loops, for what `fit()` cannot do

`experiments` goes from settings to statistics:

- `experiments.settings`: the parameters of a run, from a lesson's cell and a profile
- `experiments.runs`: train one model from its settings, or reuse an earlier run with the same
- `experiments.recording`: evaluate a run, and write its record with its provenance
- `experiments.sweep`: list the runs of a λ sweep, read their records, and choose λ
- `experiments.hyper_curve`: train one HyperMorph network and evaluate it over a grid of λ
- `experiments.plan`: read `config/real.yaml`: the training runs and methods of the 3D comparison
- `experiments.benchmark`: carry out the plan: training runs, ablation, measurements, run times
- `experiments.stepwise`: measure after each step of an optimisation, and after each pass
- `experiments.trained`: load a network that the plan has trained, and register pairs with it
- `experiments.compare`: evaluate a method on each pair in both directions, resumably
- `experiments.results`: read the records that are stored in the repository, as tables
- `experiments.statistics`: paired differences with bootstrap confidence intervals
- `experiments.dependencies`: list the files whose change makes a lesson or a run new

`book` is used by the pages of the book alone:

- `book.figures`: draw the figures
- `book.steppable`: figures that the reader steps through
- `book.claims`: the list of claims about VoxelMorph, with a verdict and a table row for each
- `book.claims_verdicts`: the rule that decides each claim from its numbers
- `book.claims_records`: numbers for claims, from the records of lessons and from committed ones
- `book.claims_measure`: numbers for claims, from small experiments with voxelmorph and Keras
- `book.errors`: show the error that a call raises, in one line
- `book.examples`: the files that pages start from: one raw scan, and the brains of the one page
"""
