"""The proof that what was written computes what the adapter on its base does."""
