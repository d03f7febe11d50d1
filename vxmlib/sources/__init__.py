"""Where people come from: each module builds the cohort of one data set."""
