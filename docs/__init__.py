"""Builds the site of the documentation; `docs/build.py` is the program."""
