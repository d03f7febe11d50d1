"""Registration methods other than one pass of a trained network, and custom training loops."""
