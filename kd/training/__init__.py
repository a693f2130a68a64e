"""Training: the loop, its state between two steps, the stages of a run, and many students at once."""
