"""Other people's releases into model files: one module per kind of source, no pickle executed."""
