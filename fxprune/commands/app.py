"""The command `fxprune` with its verbs; options have the names of the functions' arguments."""

from fxprune.commands.group import app as app

# isort: split
from fxprune.commands import pruning as pruning  # help shows verbs in this order

# isort: split
from fxprune.commands import checking as checking
