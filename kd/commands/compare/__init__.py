"""``kd compare``: did distillation help? Paired seeds, further controls, one verdict."""
