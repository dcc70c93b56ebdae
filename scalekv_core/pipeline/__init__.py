"""From names, prompts and seeds to images: the path that the command line and :class:`~scalekv_core.Pipeline` share."""
