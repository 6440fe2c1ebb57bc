"""`python -m gdd`, which is what launchers of several processes start."""

from gdd.cli import main

if __name__ == "__main__":
    main()
