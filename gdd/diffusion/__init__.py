"""What a teacher is: its loss, its sampler, its training."""
