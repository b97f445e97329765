"From a scikit-learn notebook to a versioned, tested, continuously trained HTTP service."

from importlib import import_module
from typing import Any

__version__ = "0.1.0"

_PUBLIC = {
    "Bundle": "bundle",
    "Contract": "contract",
    "MlserveError": "errors",
    "Model": "score",
    "Recipe": "recipe",
    "Settings": "settings",
    "Slice": "recipe",
    "load_model": "score",
    "load_settings": "settings",
    "read_bundle": "bundle",
}
__all__ = sorted(_PUBLIC)


def __getattr__(name: str) -> Any:  # one of __all__; its module is imported only now
    if name in _PUBLIC:
        return getattr(import_module(f"mlserve.{_PUBLIC[name]}"), name)
    raise AttributeError(f"mlserve has no {name!r}; it has {', '.join(__all__)}")


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
