"""Answers token by token, computed in C++ on a CPU."""
