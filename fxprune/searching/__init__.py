"""What a search is, whatever is searched: spaces, trials, samplers, and what was found."""
