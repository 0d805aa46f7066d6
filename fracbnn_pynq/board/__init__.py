"""The accelerator on its board: memory layouts, published files, drivers."""
