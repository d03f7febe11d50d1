"""Helpers for reproducing VoxelMorph: the recipe in the top-level modules, and six subpackages.

The recipe has one module for each step, listed in the order in which a training run uses them:

- `cohorts`: load a data set, with the images and label maps of its subjects and with its split
- `pairs`: draw pairs of training images, as a `tf.data.Dataset`
- `augment`: augment training images by random reflections, linear maps, shifts and deformations
- `losses`: look up an image loss by name
- `models`: build, compile, save and load VxmDense, and register a pair with it
- `training`: train with Keras' `fit()`, with callbacks, a learning-rate schedule and resuming
- `warp`: warp images and label maps; compose, invert and integrate displacements
- `metrics`: evaluate a registration by Dice, surface distance, Jacobian determinant and folding
- `records`: write the result of a run as one JSON file, and read such files

The modules of the recipe use these helpers:

- `preprocess`: reorient, resample, normalise, and crop or pad a scan for the network
- `nifti`: read and write NIfTI files, and displacements in the convention of ITK, ANTs and Slicer
- `fetch`: download a public file and check its hash
- `axes`: reflect images and label maps about the midplane, and describe a voxel grid to ITK
- `checks`: validate arguments, with error messages that say what was expected
- `files`: write files atomically, lock a folder, read npz and YAML, and validate YAML with a schema
- `backend`: import TensorFlow, Keras, voxelmorph and neurite so that they work together

`sources` has a module for each data set, which `cohorts.load` calls, and shared helpers:

- `sources.simulate`: simulate subjects by deforming the MNI template (cohort `mni`)
- `sources.malf`: read the MICCAI 2012 multi-atlas data (35 scans of 30 subjects, manual labels)
- `sources.vxm2018`: read the two scans that the authors of VoxelMorph published
- `sources.own`: read a folder with your own scans
- `sources.lpba40`: read the unpacked LPBA40 archive
- `sources.oasis`: read the unpacked neurite-OASIS archive
- `sources.archive`: locate the files of an unpacked archive
- `sources.atlas`: add an atlas, the MNI template or a file, to a cohort as one more subject
- `sources.template`: locate the MNI template, and define the voxel grid that most cohorts use
- `sources.labels`: list the names and label numbers of the anatomical structures
- `sources.align`: compute the affine alignment of a scan to the template

`networks` has networks that are not part of voxelmorph 0.2, and looks up networks by name:

- `networks.strided`: the strided U-Net of the papers, trainable, with the interface of VxmDense
- `networks.cvpr2018`: the network of the CVPR 2018 paper, with the authors' weights
- `networks.hyper`: HyperMorph, a single network for all values of λ
- `networks.probabilistic`: a network that predicts a distribution of velocities
- `networks.precision`: a network whose convolutions are computed in bfloat16

`methods` has alternatives to one pass of a trained network, and to training with `fit()`:

- `methods.baselines`: register with the classical methods SyN (ANTs) and demons (SimpleITK)
- `methods.passes`: apply a network to a pair repeatedly, and compose the displacements
- `methods.instance`: optimise the displacement of one pair
- `methods.loops`: train with custom loops, for tasks that `fit()` cannot do

`experiments` has the code that reads settings, makes the training runs and computes statistics:

- `experiments.settings`: read and check a run's settings: the lesson's parameters and the profile
- `experiments.runs`: train a model from its settings, or reuse a run that had the same settings
- `experiments.recording`: evaluate a run, and write its record with its provenance
- `experiments.sweep`: list the runs of a λ grid, read their records, and choose λ
- `experiments.hyper_curve`: train one HyperMorph network, and evaluate it at each λ of a grid
- `experiments.plan`: read `config/real.yaml`, the plan of the 3D comparison on real subjects
- `experiments.benchmark`: carry out this plan: train, run the ablation, evaluate, measure times
- `experiments.stepwise`: evaluate a registration after each optimisation step or each pass
- `experiments.trained`: load a network that was trained for this plan, and register pairs with it
- `experiments.compare`: evaluate a method on each pair, and save the results after each pair
- `experiments.results`: read the records that are stored in the repository, as tables
- `experiments.statistics`: compute paired differences with bootstrap confidence intervals
- `experiments.dependencies`: list the files on which the result of a lesson or a run depends

`scans` registers two scans of your own, from files to files:

- `scans.command`: the command line `vxmlib register`
- `scans.outputs`: register two files, and write the folder of results
- `scans.register`: align both scans, apply the network, and optimise the displacement
- `scans.network`: load the network that the package ships
- `scans.mapping`: compose the alignments and the displacement, and sample a scan through them
- `scans.inputs`: read scans, label maps and landmarks, and refuse what cannot be registered
- `scans.report`: write the report as a page with pictures
- `scans.viewer`: show volumes in a page, in planes and as a head that can be turned
- `scans.settings`: list the options and the files of a registration

`book` is used only by the pages of the book:

- `book.figures`: draw the figures
- `book.steppable`: show figures that the reader can step through
- `book.claims`: give a verdict on each claim about VoxelMorph, and show the claims as tables
- `book.claims_verdicts`: decide each claim from its numbers by a rule
- `book.claims_records`: read numbers for claims from the records of lessons and from stored records
- `book.claims_measure`: measure numbers for claims in small experiments with voxelmorph and Keras
- `book.errors`: return the error that a call raises, as one line
- `book.examples`: write the files with which some pages start, such as raw scans
"""
