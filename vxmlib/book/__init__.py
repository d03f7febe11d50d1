"""Helpers for the pages of the book: figures, numbers in the text, and the list of claims."""
