"""What every training loop shares: state, EMA, stop requests, progress."""
