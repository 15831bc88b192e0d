"""python -m hvdclip: the command, run by that Python."""

from hvdclip.cli import main

if __name__ == "__main__":
    main(prog_name="hvdclip")
