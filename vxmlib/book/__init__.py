"""What only the pages of the book need: figures, numbers in the text, and the list of claims."""
