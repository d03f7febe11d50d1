"""Helpers for reproducing VoxelMorph: the recipe in the front hall, and five rooms behind it.

The front hall is the recipe, one module for each stretch of it, in the order in which data flow:

- `cohorts`: load a data set as people, with images, label maps and a split
- `pairs`: make pairs of images to train on, as a `tf.data.Dataset`
- `augment`: change training images at random
- `losses`: the image losses by name, and the smoothness of a displacement
- `models`: build, compile, save and load VxmDense, and register a pair with it
- `training`: train with Keras' `fit()`, and resume a training that was stopped
- `warp`: move images and label maps along a displacement
- `metrics`: measure a registration: Dice, surface distance, Jacobian determinant, folding
- `records`: write and read the result of a run as one JSON file

Below the recipe lies what it stands on:

- `preprocess`: bring a scan into the form that the network takes
- `nifti`: read and write NIfTI files, and displacements for ITK, ANTs and Slicer
- `fetch`: download a public file and check its hash
- `axes`: know left from right on a grid
- `checks`: refuse an argument that does not fit, and say what would
- `files`: write a file completely or not at all, lock a folder, read YAML strictly
- `backend`: import TensorFlow, Keras, voxelmorph and neurite so that they work together

The room `sources` holds a module for each data set, and what these modules share:

- `sources.simulate`: simulated people, made from a template brain (cohort `mni`)
- `sources.malf`: 35 scans of 30 people with manual labels
- `sources.vxm2018`: the two scans that the authors of VoxelMorph published
- `sources.own`: a folder of your own scans
- `sources.lpba40`: the LPBA40 archive
- `sources.oasis`: the neurite-OASIS archive
- `sources.archive`: find the files of an unpacked archive
- `sources.template`: the MNI template, and the grid of all cohorts
- `sources.labels`: names and numbers of the structures
- `sources.align`: align scans to the template by an affine transform

The room `networks` holds networks that voxelmorph 0.2 does not have:

- `networks.strided`: the network of the papers, with strided convolutions
- `networks.cvpr2018`: the network of the CVPR 2018 paper, with the authors' weights
- `networks.hyper`: HyperMorph, one network for every λ

The room `methods` holds other ways to a displacement than one pass of a trained network:

- `methods.baselines`: SyN and demons
- `methods.passes`: register a pair several times
- `methods.instance`: optimise the displacement of one pair
- `methods.loops`: training loops written by hand

The room `experiments` leads from settings to statistics:

- `experiments.settings`: the parameters of a run, and what a profile does with them
- `experiments.runs`: train one model from its settings, or find the run that did
- `experiments.recording`: measure a run, and write its record
- `experiments.sweep`: list the runs of a λ grid, read their records, and choose λ
- `experiments.hyper_curve`: train one HyperMorph network for all λ of a grid
- `experiments.plan`: read `config/real.yaml`, the trainings and methods of the 3D comparison
- `experiments.benchmark`: make what the plan names: trainings, ablation, measurements, times
- `experiments.stepwise`: follow an optimisation step by step, and a network pass by pass
- `experiments.trained`: find a trained network, load it, and register with it
- `experiments.compare`: measure a method in both directions of each pair
- `experiments.results`: read the committed records as tables
- `experiments.statistics`: paired differences with their intervals
- `experiments.dependencies`: list the files that a result depends on

The room `book` holds what only pages need:

- `book.figures`: every figure
- `book.steppable`: pictures that a reader steps through
- `book.glue`: hand numbers to the text of a page
- `book.claims`: the list of claims, each with its verdict
- `book.examples`: one scan as it comes from a scanner, for the lesson on data
"""
