"""What a run leaves to go on from, and how it goes on."""
