"""What a model's folder may say and hold, looked at before a library reads it."""
