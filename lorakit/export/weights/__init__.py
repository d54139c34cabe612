"""The weights of a base with its adapters, tensor by tensor."""
