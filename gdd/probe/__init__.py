"""What this machine does with a setting: its cards, whether they compute right, and how fast."""
