"""Data sets as memory-mapped image arrays."""
