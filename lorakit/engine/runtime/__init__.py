"""Device, number format, memory of the machine, ranks, seeds."""
