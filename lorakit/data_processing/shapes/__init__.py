"""The shapes that rows come in, each read into messages."""
