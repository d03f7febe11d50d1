"""Tools that build the book: run the lessons, stage the pages, render HTML."""
