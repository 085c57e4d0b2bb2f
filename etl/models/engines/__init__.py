"""What runs networks: torch, ONNX Runtime."""
