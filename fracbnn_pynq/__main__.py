"""``python -m fracbnn_pynq``: the command ``fracbnn``."""

from .cli import main

if __name__ == "__main__":
    main()
