"""What only the pages of the book need: figures, glued numbers, the ledger of claims."""
