"""Files that others pickled, read as data: nothing in them is run."""
