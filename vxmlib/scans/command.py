"""The command line `vxmlib`: register two scans from files to files."""

import argparse
import signal
import sys
import time
from pathlib import Path

from vxmlib.scans.inputs import InputError
from vxmlib.scans.settings import ALIGNMENTS, FILES, SPACINGS, STEPS

_TEXT = """
Register a moving T1 scan of the brain to a fixed one, and write a folder of results:

{files}

Both scans have to be skull-stripped, with a background of 0. They can have any orientation, voxel
size and position, and lie in .nii, .nii.gz, .img/.hdr or .mgz files. They are aligned to the MNI
template, registered by a network that was trained with VoxelMorph's losses, and the displacement
is optimised for the pair.

The network was trained on T1 scans of 15 adults. Look at report.html before you use a
result. This program is no medical device.
"""
_EXAMPLES = """
examples:
  vxmlib register moving.nii.gz fixed.nii.gz --out result
  vxmlib register moving.nii.gz fixed.nii.gz --out result --moving-labels moving_seg.nii.gz
  antsApplyTransforms -d 3 -i moving.nii.gz -r fixed.nii.gz -t result/warp.nii.gz -o warped.nii.gz
"""


def main(arguments=None):
    """Run the command line, and return its exit status: 0, 1 for bad input, 130 for Ctrl-C."""
    options = _parser().parse_args(arguments)
    # A stop becomes an exception, so that unfinished files are removed.
    before = signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        _register(options)
    except (InputError, OSError, ModuleNotFoundError) as error:
        print(f"vxmlib: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("vxmlib: stopped; nothing was written", file=sys.stderr)
        return 130
    finally:
        signal.signal(signal.SIGTERM, before)
    return 0


def _register(options):
    start = time.perf_counter()

    def say(step):
        print(f"{time.perf_counter() - start:6.1f} s  {step}", flush=True)

    say("load the packages")
    from vxmlib.scans.outputs import register_files  # takes seconds; not for --help

    record = register_files(
        options.moving,
        options.fixed,
        options.out,
        moving_labels=options.moving_labels,
        fixed_labels=options.fixed_labels,
        landmarks=options.landmarks,
        weights=options.weights,
        spacing=options.spacing,
        steps=options.steps,
        alignment=options.align,
        check=not options.no_check,
        overwrite=options.overwrite,
        say=say,
    )
    for note in record["notes"]:
        print(f"note: {note}")
    measures = record["metrics"]
    say("finished")
    print(
        f"correlation {measures['correlation_affine']:.3f} -> {measures['correlation']:.3f}, "
        f"{measures['folding_percent_brain']:.3f} % of the brain folded"
    )
    print(f"look at {Path(options.out) / 'report.html'}")


def _parser():
    parser = argparse.ArgumentParser(prog="vxmlib", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    listed = "\n".join(f"  {name:22} {text}" for name, text in FILES.items())
    register = commands.add_parser(
        "register",
        help="register two scans",
        description=_TEXT.format(files=listed),
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = register.add_argument
    add("moving", help="scan that is warped")
    add("fixed", help="scan that stays")
    add("--out", required=True, metavar="FOLDER", help="folder to create for the results")
    add("--moving-labels", metavar="FILE", help="label map of the moving scan; it is warped, too")
    add("--fixed-labels", metavar="FILE", help="label map of the fixed scan, to measure Dice")
    add("--landmarks", metavar="CSV", help="landmarks of the moving scan; columns x_ras, y_ras, "
        "z_ras, or x_lps, y_lps, z_lps, in mm")  # fmt: skip
    add("--steps", type=int, default=STEPS, metavar="N", help="steps of optimisation for this pair "
        "(default %(default)s; 0 for none)")  # fmt: skip
    add("--spacing", type=float, default=2.0, choices=SPACINGS, help="voxel size in mm at which "
        "the pair is optimised; 1.0 takes several times as long")  # fmt: skip
    add("--align", default="affine", choices=ALIGNMENTS, help="how each scan is aligned to the "
        "template: by an affine transform (default), by its centre of mass, or not at all because "
        "it lies in MNI space")  # fmt: skip
    add("--weights", metavar="FILE", help="another network, as vxmlib.models.save writes it")
    add("--no-check", action="store_true", help="register even if a scan seems to have a skull or "
        "to be aligned badly")  # fmt: skip
    add("--overwrite", action="store_true", help="replace the results of an earlier call")
    return parser


if __name__ == "__main__":
    sys.exit(main())
