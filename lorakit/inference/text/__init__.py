"""Answers as text: cleaned, streamed, with thoughts and calls taken out."""
