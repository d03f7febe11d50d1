"""What a call raises, as a page prints it."""

from vxmlib.book.errors import error_of, kind_of_error


def fail():
    raise ValueError("  first line\nsecond line")


def test_an_error_is_one_line():
    assert error_of(fail) == "ValueError: first line"
    assert kind_of_error(fail) == "ValueError"


def test_a_call_that_runs_has_no_error():
    assert error_of(lambda: 1) == ""
    assert kind_of_error(lambda: 1) == "no error"
