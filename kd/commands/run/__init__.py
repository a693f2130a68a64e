"""``kd run``, and the commands for single steps of a run: distill, evaluate, report, cache."""
