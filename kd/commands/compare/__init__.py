"""``kd compare``: did distillation help? Paired seeds, additional controls and one verdict."""
