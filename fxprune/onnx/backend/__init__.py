"""Plans carried out on copies of files: cut, masked, in other precision, saved."""
