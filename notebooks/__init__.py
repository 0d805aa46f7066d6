"""Notebooks and the sample pictures they use (package data)."""
