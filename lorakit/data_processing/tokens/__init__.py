"""Rows as tokens: many at once, in columns, packed."""
