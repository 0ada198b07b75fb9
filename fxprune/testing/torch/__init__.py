"""Random torch networks, their inputs, and checkers of rewrites."""
