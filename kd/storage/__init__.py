"""Storage: atomic file writes, safe reads of untrusted files, and the folder that a run resumes from."""
