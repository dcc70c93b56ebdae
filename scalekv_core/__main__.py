"""``python -m scalekv_core``: the same as the command ``scalekv``."""

from scalekv_core.cli import main

if __name__ == "__main__":
    main()
