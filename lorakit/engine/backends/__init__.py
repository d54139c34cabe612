"""Who computes: PyTorch, or C++ on a CPU."""
