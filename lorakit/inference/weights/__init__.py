"""Weights in fewer bits for answering, and whether they may be used."""
