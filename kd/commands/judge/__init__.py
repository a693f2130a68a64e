"""``kd judge``: a verdict on predictions from anywhere."""
