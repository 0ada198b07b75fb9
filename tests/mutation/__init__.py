"""Sabotages of rules, passes and back ends, and the command that shows what notices each."""
