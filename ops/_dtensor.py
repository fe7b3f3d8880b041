"""Makes the operators take DTensors as soon as ``torch.distributed.tensor`` is imported.

That import costs half as much as torch's own and most programs never make it, so ``import convt3d``
does not make it for them. A rule for DTensor needs the class, however: if DTensor comes later than
convt3d, a hook in ``sys.meta_path`` brings ``convt3d.distributed`` in right behind it.
"""

from __future__ import annotations

import importlib
import importlib.abc
import importlib.util
import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec
from types import ModuleType

_DTENSOR = "torch.distributed.tensor"
_RULES = "convt3d.distributed"


class _Hook(importlib.abc.MetaPathFinder):
    def find_spec(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if name != _DTENSOR:
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        if spec is not None and spec.loader is not None:
            execute = spec.loader.exec_module

            def execute_and_register(module: ModuleType) -> None:
                execute(module)
                importlib.import_module(_RULES)

            spec.loader.exec_module = execute_and_register  # type: ignore[method-assign]
        return spec


if _DTENSOR in sys.modules:
    importlib.import_module(_RULES)
else:
    sys.meta_path.insert(0, _Hook())
