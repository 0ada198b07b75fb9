"""The verbs on the command line. Importing them loads neither torch nor onnx."""
