"""`gdd plan`: what a target takes, before anything is started; imports neither torch nor Snakemake."""
