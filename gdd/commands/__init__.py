"""The commands of `gdd`, by what they are about."""
