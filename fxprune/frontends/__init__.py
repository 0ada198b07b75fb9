"""From a framework's model to the graph that passes read."""
