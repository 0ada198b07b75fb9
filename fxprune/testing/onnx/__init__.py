"""Random ONNX models, and checkers of rewrites. It needs no torch."""
