"""The commands of ``kd``: the code they share, and a folder for each command of more than one file."""
