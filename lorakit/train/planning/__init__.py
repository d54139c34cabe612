"""What a run will cost, and what is changed until it fits."""
