"""How ``torch.fx`` sees the layers: each as one node, as it sees those of torch."""

import functools
from collections.abc import Callable
from typing import Any, TypeVar, cast

from torch.fx import Proxy

__all__ = ["leaf"]

Forward = TypeVar("Forward", bound=Callable[..., Any])


def leaf(forward: Forward) -> Forward:
    """Decorator of the ``forward`` of a layer whose Python looks at sizes, which a symbolic trace does not know.

    ``torch.fx.symbolic_trace(network)`` and torchvision's ``create_feature_extractor`` then keep the layer whole.

    Raises:
        TypeError: the layer is itself what is traced.
    """

    @functools.wraps(forward)
    def run(self: Any, x: Any, *args: Any, **kwargs: Any) -> Any:
        if not isinstance(x, Proxy):
            return forward(self, x, *args, **kwargs)
        tracer: Any = x.tracer
        path = tracer.path_of_module(self)
        if not path:
            raise TypeError(f"torch.fx keeps {type(self).__name__} whole: trace nn.Sequential(layer) instead")
        return tracer.create_proxy("call_module", path, (x, *args), kwargs)

    return cast(Forward, run)
