"""Inspection of ONNX files: nodes, shapes, FLOPs and memory."""
