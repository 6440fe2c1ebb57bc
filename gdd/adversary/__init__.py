"""The projected multi-scale discriminator and the frozen networks it looks through."""
