"""Align the words in a table of results to the left; its numbers stay on the right."""

import re

from bs4 import BeautifulSoup

_TABLE = re.compile(r'<table\b[^>]*class="[^"]*\bdataframe\b.*?</table>', re.DOTALL)
#: The start of a table that pandas' Styler wrote; the page would not show it as a pandas table.
_STYLED = re.compile(r'<table (?=id="T_[0-9a-f]+">)')
_NUMBER = re.compile(r"[-+−±]?(\d[\d.,]*(e[-+]?\d+)?|nan|inf)?\s*(%|mm|s|±.*)?", re.IGNORECASE)


def align_words(page: str) -> str:
    """Mark each column of pandas' tables that holds words: the class "words" in its cells.

    A table of pandas' Styler gets the class "dataframe", which pandas' other tables already have.

    Examples
    --------
    >>> row = "<tr><td>1</td><td>a</td></tr>"
    >>> print(align_words(f'<table class="dataframe"><tbody>{row}</tbody></table>'))
    <table class="dataframe"><tbody><tr><td>1</td><td class="words">a</td></tr></tbody></table>
    """
    page = _STYLED.sub('<table class="dataframe" ', page)
    return _TABLE.sub(lambda table: _marked(table.group()), page)


def _marked(table):
    soup = BeautifulSoup(table, "html.parser")
    # From the right, because the names of the rows take one or more columns on the left.
    rows = [row.find_all("td")[::-1] for row in soup.select("tbody tr")]
    headings = [row.find_all("th")[::-1] for row in soup.select("thead tr")]
    for number, column in enumerate(_columns(rows)):
        if all(_NUMBER.fullmatch(cell.get_text().strip()) for cell in column):
            continue
        for cell in [*column, *(row[number] for row in headings if len(row) > number)]:
            cell["class"] = [*cell.get("class", []), "words"]
    return str(soup)


def _columns(rows):
    widest = max(map(len, rows), default=0)
    return [[row[number] for row in rows if len(row) > number] for number in range(widest)]
