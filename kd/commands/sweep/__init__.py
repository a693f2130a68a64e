"""``kd sweep``: which temperature, which alpha? Chosen on validation images, tested once with fresh seeds."""
