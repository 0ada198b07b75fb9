"""The ONNX wing: verbs for files; front end and back end below. It needs no torch."""
