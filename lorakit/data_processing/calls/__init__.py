"""Calls of tools: read from whatever a row writes them as, and handed to templates."""
