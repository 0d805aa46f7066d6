"""The project's own accelerator as data: its registers, descriptors, memory plan and compiler. Pure NumPy.

The hardware itself is in overlays/engine; docs/accelerator.md describes both.
"""

from .explain import explain
from .image import Program, assemble, compile_model, decompile

__all__ = ["Program", "assemble", "compile_model", "decompile", "explain"]
