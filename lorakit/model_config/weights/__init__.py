"""The tensors of a base: as they are stored, widened, identified, and how large they are."""
