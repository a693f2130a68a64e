"""results/report.html: a single page built from the results of all commands."""
