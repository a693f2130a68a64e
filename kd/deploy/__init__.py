"""Trained models for other programs: manifest, export to other formats, and checks of the exported files."""
