"""results/report.html: one page, put together from what each command has found."""
