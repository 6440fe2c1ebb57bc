"""U-Nets, preconditioning and the files that hold weights."""
