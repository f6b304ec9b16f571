"""A libcuda without a GPU behind it, and what runs over it."""

STREAM = 4711
"""The handle of the stream on which the launchers are to launch."""
