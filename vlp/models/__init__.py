"""Encoders of video regions and of text."""
