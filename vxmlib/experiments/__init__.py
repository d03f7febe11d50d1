"""Settings, training runs, λ grids, the comparison of methods on real subjects, statistics."""
