"""The commands of ``kd``: what they share. A command that is more than one file has a folder."""
