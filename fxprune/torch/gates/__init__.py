"""Gates that learn, and the methods by which they do."""
