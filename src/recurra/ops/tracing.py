"""What watches a call of torch: torch.compile and torch.export while they trace, modes, and subclasses of tensors."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

# looked up once: an attribute of a module costs as much as the call
dispatch_modes, tracing_state = torch._C._len_torch_dispatch_stack, torch._C._get_tracing_state
# whether a tensor is a wrapper of torch.func, perhaps of a transform that has ended
is_wrapped: Callable[[Tensor], bool] = torch._C._functorch.is_functorch_wrapped_tensor  # pyright: ignore[reportAttributeAccessIssue]
_PLAIN = (Tensor, torch.nn.Parameter)


def is_watched(tensors: Iterable[Tensor | None]) -> bool:
    """Whether a call with these tensors has to go through torch's dispatcher, for something there is to see it."""
    if dispatch_modes() or tracing_state() is not None:
        return True
    return any([t is not None and type(t) not in _PLAIN for t in tensors])


def constant_while_tracing(function: Callable[..., Any]) -> Callable[..., Any]:
    """Makes torch.compile call a function while it traces, and take its result as a constant.

    It does what torch.compiler.assume_constant_result does, without importing the whole compiler along with recurra.
    """
    function._dynamo_marked_constant = True  # pyright: ignore[reportAttributeAccessIssue]
    return function
