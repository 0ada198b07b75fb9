"""The `fxprune` command: see `fxprune --help`."""

import io
import sys


def main() -> None:
    """Run the command, if what it is made with is installed."""
    try:
        from fxprune.commands.app import app
    except ModuleNotFoundError as error:
        if error.name != "typer":
            raise
        sys.exit('fxprune: the command needs typer: pip install "fxprune[cli]"')
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # not every terminal can draw tables
    app(prog_name="fxprune")


if __name__ == "__main__":
    main()
