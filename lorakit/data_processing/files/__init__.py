"""Files of rows of every kind, opened, decoded and read into plain rows."""
