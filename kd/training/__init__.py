"""Training: the loop, its state between two steps, the steps of a run, and many students at once."""
