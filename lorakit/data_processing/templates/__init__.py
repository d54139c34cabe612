"""Conversations as a model's chat template writes them, and which of their tokens are trained."""
