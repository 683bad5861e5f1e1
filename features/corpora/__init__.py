"""Annotation formats to clips, one file per format."""
