"""Prediction on pictures and videos: sources, predictor, results, saving, trackers; and ONNX files as networks."""
