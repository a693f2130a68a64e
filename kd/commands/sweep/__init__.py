"""``kd sweep``: choose temperature and alpha on validation images, then test the choice once with fresh seeds."""
