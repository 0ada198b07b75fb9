"""From a file to the graph that passes read, and what ONNX Runtime computes."""
