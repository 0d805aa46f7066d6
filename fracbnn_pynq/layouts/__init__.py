"""How pictures, weights and results lie in the published accelerators' memory. Pure NumPy."""
