"""Make the numbers of a lesson available to the text of its page."""

import numbers

import numpy as np


def glue(**values) -> None:
    """Make values available to the page's text under their names, as ``{glue:text}``.

    Parameters
    ----------
    **values : number or str
        NumPy scalars become Python numbers, since the page would print ``np.float64(0.5)``.

    Raises
    ------
    TypeError
        For anything that is neither a number nor text; a page cannot print an array.

    Examples
    --------
    >>> glue(dice=[0.5, 0.6])
    Traceback (most recent call last):
    ...
    TypeError: glue dice: found list, expected a number or text
    """
    from myst_nb import glue as myst_glue  # only where a notebook runs: the package works without

    for name, value in values.items():
        plain = value.item() if isinstance(value, np.generic) else value
        if not isinstance(plain, numbers.Real | str):
            raise TypeError(f"glue {name}: found {type(value).__name__}, expected a number or text")
        myst_glue(name, plain, display=False)
