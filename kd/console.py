"""Console output: lines, tables, and a progress bar with the remaining time if the output is a terminal.

rich is imported at the first output: training and prediction in a user's program need only torch and numpy, and
``kd --help`` takes a quarter less time.
