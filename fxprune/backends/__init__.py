"""Plans carried out on a copy of a framework's model."""
