"""Describe in one line the error that a call raises, to show it on a page."""


def error_of(call):
    """Return the type and the first line of the error that a call raises, or "" if it raises none.

    Examples
    --------
    >>> error_of(lambda: 1 / 0)
    'ZeroDivisionError: division by zero'
    >>> error_of(lambda: 1)
    ''
    """
    try:
        call()
    except Exception as error:  # noqa: BLE001 - whatever is raised is the result
        first = str(error).strip().split("\n")[0]
        return f"{type(error).__name__}: {first}"
    return ""


def kind_of_error(call):
    """Return the type of the error that a call raises, or "no error".

    Examples
    --------
    >>> kind_of_error(lambda: 1 / 0), kind_of_error(lambda: 1)
    ('ZeroDivisionError', 'no error')
    """
    return error_of(call).partition(":")[0] or "no error"
