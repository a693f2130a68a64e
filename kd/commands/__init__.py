"""The commands of ``kd``: shared code here, the commands themselves in ``run``, ``compare`` and ``sweep``."""
