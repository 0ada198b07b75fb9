"""Plans carried out on copies of modules: gates inserted, models folded."""
