"""An ONNX file looked into: its nodes, shapes and multiply-adds."""
