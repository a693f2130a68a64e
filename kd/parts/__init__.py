"""Commands that do one part of a run, or look at what a run has left: distill, evaluate, report, cache."""
