"""Training FracBNN in PyTorch: ``fracbnn train``, or :class:`.run.TrainingRun`. Needs the extra ``train``."""
