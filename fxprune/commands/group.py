"""The command `fxprune` itself: its verbs are added by the modules that hold them."""

import functools
import shlex
import sys
from collections.abc import Callable
from typing import Annotated, Any, get_type_hints

import typer
from typer.core import TyperGroup
from typer.models import OptionInfo

from fxprune.commands.answers import COMMAND, EXIT_CODES, OPTIONS, printable
from fxprune.version import __version__


class _Verbs(TyperGroup):
    """Whatever a verb is called with wrongly is told in one line, like all that goes wrong."""

    def parse_args(self, ctx: Any, args: list[str]) -> Any:
        """Remember what was written."""
        COMMAND.set(shlex.join(["fxprune", *args]))
        return super().parse_args(ctx, args)

    def invoke(self, ctx: Any) -> Any:
        """Run a verb."""
        try:
            return super().invoke(ctx)
        except _USAGE as error:
            print(f"fxprune: {printable(error.format_message())}", file=sys.stderr)
            raise typer.Exit(2) from error


_USAGE: Any = typer.BadParameter.__base__
"""What options are wrong with that no verb is asked about."""

app = typer.Typer(
    name="fxprune",
    cls=_Verbs,
    help="Prune models: .onnx files, or torch models that `module:factory` of Python makes. "
    + EXIT_CODES,
    epilog="Start with: fxprune demo",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)

Verb = Callable[..., None]


def verb(*examples: str) -> Callable[[Verb], Verb]:
    """Make a function a verb, whose help ends with examples."""
    shown = "\n\n".join(f"fxprune {example}" for example in examples)
    command = app.command(epilog=f"{EXIT_CODES}\n\nExamples:\n\n{shown}")

    def made(function: Verb) -> Verb:
        options = _options_of(function)

        @functools.wraps(function)
        def told(*words: Any, **named: Any) -> None:
            OPTIONS.set(options)
            function(*words, **named)

        return command(told)

    return made


def _options_of(function: Verb) -> dict[str, str]:
    """How arguments of a function are written on the command line, those that are options."""
    hints = get_type_hints(function, include_extras=True).items()
    return {
        name: f"--{name.replace('_', '-')}"
        for name, hint in hints
        if any(isinstance(each, OptionInfo) for each in getattr(hint, "__metadata__", ()))
    }


def _version(wanted: bool) -> None:
    if wanted:
        print(__version__)
        raise typer.Exit


@app.callback()
def main(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Options of no verb."""
