"""What builds the book: running lessons, staging pages, rendering HTML."""
