"""Pictures to findings: sources, predictor, saving; networks that run by onnxruntime."""
