"""Messages of functions in the words of the command line: options instead of arguments."""

import re
from collections.abc import Mapping


def in_options(text: str, options: Mapping[str, str]) -> str:
    """A message with the options of a verb for the arguments that it speaks of.

    An argument is spoken of where a value follows it, or what is wrong with it at the beginning.

    >>> in_options("round_to is 0: give overwrite=True", {"round_to": "--round-to"})
    '--round-to is 0: give overwrite=True'
    >>> in_options("cannot write a: give overwrite=True", {"overwrite": "--overwrite"})
    'cannot write a: give --overwrite'
    >>> in_options("unknown method 'best'; known are taylor", {"method": "--method"})
    "unknown --method 'best'; known are taylor"
    """
    if not options:
        return text
    names = "|".join(map(re.escape, sorted(options, key=len, reverse=True)))
    text = re.sub(rf"(?<![\w.-])({names})=True\b", lambda found: options[found[1]], text)
    text = re.sub(
        rf"(?<![\w.-])({names})=(?=[\w'\"\[{{.])", lambda found: f"{options[found[1]]} ", text
    )
    compound = "|".join(name for name in options if "_" in name)
    if compound:
        text = re.sub(rf"(?<![\w.-])({compound})\b", lambda found: options[found[1]], text)
    return re.sub(
        rf"^(unknown )?({names})(?= |:)", lambda found: (found[1] or "") + options[found[2]], text
    )
