"""Folders sent to a hub."""
