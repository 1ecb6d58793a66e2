"""Pillow images: saving one to a path shows it as well, `show()` displays it instead of looking for a viewer.
Takes effect when the user imports Pillow, not before."""

import os
import sys
from collections.abc import Callable
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType
from typing import Any, Optional

from IPython.display import display

Patch = Callable[[ModuleType], None]


def show_saved_images() -> None:
    patches: dict[str, Patch] = {"PIL.Image": _patch_image, "PIL.ImageShow": _patch_image_show}
    for name in list(patches):
        loaded = sys.modules.get(name)
        if loaded is not None:
            patches.pop(name)(loaded)
    sys.meta_path.insert(0, _PatchAtImport(patches))


class _PatchAtImport(MetaPathFinder):
    def __init__(self, patches: dict[str, Patch]) -> None:
        self._patches = patches

    def find_spec(self, fullname: str, path: Any, target: Any = None) -> Optional[ModuleSpec]:
        patch = self._patches.get(fullname)
        if patch is None:
            return None
        spec = PathFinder.find_spec(fullname, path, target)
        if spec is None or spec.loader is None:
            return spec
        run = spec.loader.exec_module

        def run_and_patch(module: ModuleType) -> None:
            run(module)
            patch(module)

        spec.loader.exec_module = run_and_patch  # type: ignore[method-assign]
        return spec


def _patch_image(module: ModuleType) -> None:
    save = module.Image.save

    def save_and_show(self: Any, fp: Any, format: Optional[str] = None, **params: Any) -> None:
        if isinstance(fp, (str, os.PathLike)):
            display(self)
        save(self, fp, format, **params)

    save_and_show.__doc__ = save.__doc__
    module.Image.save = save_and_show


def _patch_image_show(module: ModuleType) -> None:
    class NotebookViewer(module.Viewer):  # type: ignore[name-defined, misc]
        def show(self, image: Any, **options: Any) -> bool:
            display(image)
            return True

    module.register(NotebookViewer, order=0)
