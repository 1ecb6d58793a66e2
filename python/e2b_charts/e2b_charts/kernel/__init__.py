"""The IPython extension that makes a kernel the sandbox's: data and charts beside the usual formats, images
shown where they are saved. Loaded by name in the kernel's configuration; imports nothing heavy itself."""

from typing import Any


def load_ipython_extension(shell: Any) -> None:
    from .formatters import register_formatters
    from .history import forget_outputs
    from .images import show_saved_images

    forget_outputs(shell)
    register_formatters(shell.display_formatter)
    show_saved_images()
