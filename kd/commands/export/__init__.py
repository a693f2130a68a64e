"""``kd export``: a trained network as a deployable folder."""
