"""Inference with trained models: recommendations, sessions, growing catalogues, ONNX export."""
