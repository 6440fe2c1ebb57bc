"""Diffusion models as one-step generators: GDD, GDD-I and what they are compared with."""
