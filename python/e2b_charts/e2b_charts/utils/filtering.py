"""The place where callers of the original package look for `is_grid_line`."""

from ..grid_lines import is_grid_line

__all__ = ["is_grid_line"]
