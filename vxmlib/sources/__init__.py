"""Data sets: each module reads or simulates the people of one and builds its cohort."""
