"""From a module to the graph that passes read: recording, and how torch spells operators."""
