"""What torch.compile and torch.export see while they trace."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


def constant_while_tracing(function: Callable[..., Any]) -> Callable[..., Any]:
    """Makes torch.compile call a function while it traces, and take its result as a constant.

    It does what torch.compiler.assume_constant_result does, without importing the whole compiler along with recurra.
    """
    function._dynamo_marked_constant = True  # pyright: ignore[reportAttributeAccessIssue]
    return function
