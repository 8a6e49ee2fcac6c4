"""Bounds that several parts check a user's numbers against."""

MOST_EPOCHS = 1_000_000
"""Of a training, or of a stage of it."""
