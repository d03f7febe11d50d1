"""Read or simulate the subjects of each data set, and build a cohort from them."""
