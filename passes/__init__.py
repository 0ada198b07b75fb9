"""Compiler passes on a framework-neutral graph: which channels belong together, and what follows.

Every pass is a plain function from facts to facts or to a plan. Passes decide, back ends act:
nothing in here imports a deep-learning framework, changes its input or touches a model.

This folder is imported as `fxprune.passes`, wherever it stands on disk.
"""

if __name__ != "fxprune.passes":
    # A second import under another name would make a second operator table and second classes.
    raise ImportError(
        f"this folder holds the package fxprune.passes, but was imported as {__name__!r}; "
        "write `import fxprune.passes`"
    )
