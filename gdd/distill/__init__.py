"""From a teacher to a one-step generator."""
