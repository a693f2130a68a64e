"""Files: written whole or not at all, read safely, and the folder from which a run resumes."""
