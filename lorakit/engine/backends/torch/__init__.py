"""PyTorch's operations, on any device."""
