"""Columns of words are marked in pandas' tables, and nothing else of a page changes."""

import numpy as np
import pandas as pd
from bs4 import BeautifulSoup

from tools.tables import align_words


def marked(table):
    """The texts of the marked cells of a table, headings included."""
    soup = BeautifulSoup(align_words(table.to_html()), "html.parser")
    return [cell.get_text() for cell in soup.find_all(class_="words")]


def test_only_a_column_of_words_is_marked_with_its_heading():
    table = pd.DataFrame(
        {"Dice": [0.5, np.nan], "shape": ["(2, 3)", "(4, 5)"], "seconds": ["1.5 s", "−2 s"]},
        index=["VoxelMorph", "SyN"],
    )
    assert marked(table) == ["shape", "(2, 3)", "(4, 5)"]


def test_two_columns_of_row_names_do_not_shift_the_headings():
    table = pd.DataFrame({"first": [1, 2], "word": ["a", "b"]}, index=[["x", "y"], ["u", "v"]])
    assert marked(table) == ["word", "a", "b"]


def test_one_word_among_numbers_makes_a_column_of_words():
    assert marked(pd.DataFrame({"folds": [1, "none"]})) == ["folds", "1", "none"]


def test_a_styled_table_is_one_of_pandas_tables():
    table = pd.DataFrame({"a": [1.0, np.nan], "word": ["x", "y"]})
    soup = BeautifulSoup(align_words(table.style.format(na_rep="").to_html()), "html.parser")
    assert soup.table["class"] == ["dataframe"] and soup.table["id"].startswith("T_")
    assert [cell.get_text() for cell in soup.find_all(class_="words")] == ["word", "x", "y"]


def test_percent_and_spread_are_numbers():
    table = pd.DataFrame({"a": ["0.5 %", "1e-3"], "b": ["0.70 ± 0.03", "1,200"], "c": ["", "nan"]})
    assert marked(table) == []


def test_other_tables_and_text_stay_as_they_are():
    page = "<p>dataframe</p><table class='docutils'><tr><td>word</td></tr></table>\n&nbsp;<b>x</b>"
    assert align_words(page) == page


def test_an_empty_table_is_left_alone():
    assert marked(pd.DataFrame({"a": []})) == []
