"""Keep-sets of several folds, for the laws of both routes."""


def composed(first, second):
    """The keep-set of a fold by `first` and then by `second`."""
    result = {}
    for name, flags in first.items():
        rest = iter(second.get(name, [True] * len(flags)))
        result[name] = [flag and next(rest) for flag in flags]
    return result
