"""Pictures: their grids, their patches, kept features, reading ahead."""
