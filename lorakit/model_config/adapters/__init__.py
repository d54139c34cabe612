"""Adapters: made, attached, checked, chosen, and described."""
