"""Training: the loop, its resumable state, the steps of a run, and parallel training of many students."""
