"""The command line where its script is not on the path: `python -m longcat`."""

from longcat.cli import program

if __name__ == "__main__":
    program()
