"""Fine-tuning: from a configuration to an adapter with its records, curve and comparison."""
