"""Other ways to a displacement than one pass of a trained network."""
