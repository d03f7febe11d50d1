"""From settings to a run, to many runs, to the comparison of methods, and their statistics."""
