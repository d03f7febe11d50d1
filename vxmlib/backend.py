"""Import TensorFlow, voxelmorph 0.2 and neurite 0.2; all other modules import them from here.

Importing this module changes the process in five ways. No other module of vxmlib changes
the process when it is imported.

* It sets ``TF_USE_LEGACY_KERAS=1``, because voxelmorph 0.2 is written for Keras 2, which is now
  the package tf-keras.
* It sets ``TF_ENABLE_ONEDNN_OPTS=1`` unless you have set it. The default on processors without
  AVX-512 is off, although it makes these networks two to four times faster there.
* It sets ``TF_CPP_MIN_LOG_LEVEL=3`` unless you have set it, to hide TensorFlow's C++ messages.
  Failures still raise exceptions. Set it to 0 to see why a GPU is not found.
* It filters TensorFlow's start-up messages from stderr during the import.
* It adds ``inspect.getargspec`` during the import and removes it afterwards, because neurite 0.2
  calls this function, which Python 3.11 removed.
"""

import contextlib
import importlib
import inspect
import os
import platform
import subprocess
from importlib import metadata

from vxmlib.checks import check_whole

# TensorFlow prints these messages at any log level. They describe the machine and are not warnings.
_START_UP_NOTES = (
    r"^(I[0-9]{4} |[0-9]{4}-[0-9]{2}-[0-9]{2} .*: I |To enable the following instructions"
    r"|WARNING: All log messages before absl)"
)
_EXPECTED = {"voxelmorph": "0.2", "neurite": "0.2"}


@contextlib.contextmanager
def _without_start_up_notes():
    """Filter stderr through grep, which prints the last lines even if this process aborts."""
    command = ["grep", "--line-buffered", "-avE", _START_UP_NOTES]
    try:
        stderr = os.dup(2)
        # grep gets a separate session, so that Ctrl-C does not end it before this process.
        grep = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=stderr, start_new_session=True
        )
    except OSError:  # no stderr, or no grep
        yield
        return
    os.dup2(grep.stdin.fileno(), 2)
    try:
        yield
    finally:
        os.dup2(stderr, 2)
        os.close(stderr)
        grep.communicate()


@contextlib.contextmanager
def _getargspec_restored():
    """Provide ``inspect.getargspec``, which Python 3.11 removed, while the block runs."""
    if hasattr(inspect, "getargspec"):
        yield
        return
    inspect.getargspec = lambda function: inspect.getfullargspec(function)[:4]
    try:
        yield
    finally:
        del inspect.getargspec


def _check_versions():
    """Refuse releases that use PyTorch, and any backend but TensorFlow."""
    for name, expected in _EXPECTED.items():
        try:
            installed = metadata.version(name)
        except metadata.PackageNotFoundError:
            installed = "none"
        if installed != expected:
            raise ImportError(
                f"{name} {expected} is needed, found {installed}: later releases are PyTorch only. "
                f"Install it with `pip install {name}=={expected}` or use the lock file."
            )
    for variable in ("VXM_BACKEND", "NEURITE_BACKEND"):
        if os.environ.get(variable, "tensorflow") != "tensorflow":
            raise ImportError(
                f"the environment variable {variable} is {os.environ[variable]!r}: this book "
                "uses TensorFlow; unset it."
            )


def _check_keras(tensorflow):
    """Refuse a TensorFlow that was imported before vxmlib and uses Keras 3."""
    module = tensorflow.keras.Model.__module__
    if not module.startswith("tf_keras."):
        raise ImportError(
            "TensorFlow was imported before vxmlib and chose Keras 3 "
            f"(tf.keras.Model comes from {module}); voxelmorph 0.2 needs tf-keras. Import vxmlib "
            "first, or set TF_USE_LEGACY_KERAS=1 before anything imports TensorFlow."
        )


def _import_all():
    _check_versions()
    os.environ["TF_USE_LEGACY_KERAS"] = "1"
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    with _without_start_up_notes():
        tensorflow = importlib.import_module("tensorflow")
        _check_keras(tensorflow)
        with _getargspec_restored():
            neurite = importlib.import_module("neurite")
            voxelmorph = importlib.import_module("voxelmorph")
    return tensorflow, neurite, voxelmorph


tf, ne, vxm = _import_all()

__all__ = ["device_summary", "ne", "set_seed", "tf", "versions", "vxm"]


def set_seed(seed):
    """Seed the random numbers of Python, NumPy and TensorFlow.

    Call it before :func:`vxmlib.models.build` to make the initial weights reproducible. The
    functions of :mod:`vxmlib.pairs` have a separate argument ``seed`` and do not need it.

    Parameters
    ----------
    seed : int
        From 0 to 2**32 - 1.

    Raises
    ------
    ValueError
        If ``seed`` is not an integer in this range.

    Examples
    --------
    >>> set_seed(7)
    >>> first = float(tf.random.uniform(()))
    >>> set_seed(7)
    >>> float(tf.random.uniform(())) == first
    True
    """
    tf.keras.utils.set_random_seed(check_whole("seed", seed, most=2**32 - 1))


def device_summary():
    """Describe the device that TensorFlow uses, in one line.

    Returns
    -------
    str
        The names of the GPUs, or without a GPU the name of the processor and its number of cores.

    Examples
    --------
    >>> device_summary().startswith(("CPU", "GPU"))
    True
    """
    gpus = tf.config.list_physical_devices("GPU")
    if gpus:
        details = [tf.config.experimental.get_device_details(gpu) for gpu in gpus]
        return "GPU: " + ", ".join(d.get("device_name", "unnamed") for d in details)
    name = platform.processor() or platform.machine()
    with contextlib.suppress(OSError), open("/proc/cpuinfo", encoding="utf-8") as lines:
        names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
        name = names[0] if names else name
    return f"CPU: {name}, {os.cpu_count()} cores"


def versions():
    """Return the versions of the software that a result depends on.

    Returns
    -------
    dict of str to str
        Name -> version, of Python, TensorFlow, tf-keras, voxelmorph, neurite, NumPy and SciPy.

    Examples
    --------
    >>> versions()["voxelmorph"]
    '0.2'
    """
    packages = ("tensorflow", "tf-keras", "voxelmorph", "neurite", "numpy", "scipy")
    return {"python": platform.python_version()} | {p: metadata.version(p) for p in packages}
