"""Metrics of predictions and models, and the statistics to compare them."""
