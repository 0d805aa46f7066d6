"""Bundled models and their model cards (package data; read through :mod:`importlib.resources`)."""
