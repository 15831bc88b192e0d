"""python -m hvdclip: the command by the Python that runs it."""

from hvdclip.cli import main

if __name__ == "__main__":
    main(prog_name="hvdclip")
