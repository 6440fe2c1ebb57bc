"""`gdd fetch`: the one part of the program that uses a network."""
