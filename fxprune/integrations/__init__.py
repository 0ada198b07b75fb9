"""What trainers of other libraries show of a gated model while it trains.

Gates hear of optimizer steps by themselves, so no trainer needs anything from here to prune.
"""
