"""Where the time of a run of the language model goes, measured while it trains, for any layers alike."""

import time
from typing import Any

from lightning.pytorch import Trainer
from lightning.pytorch.profilers import Profiler
from torch import Tensor
from torch_layers import TorchLayer

from recurra.nn import Recurrent
from recurra.tasks import LanguageModel

PARTS = (
    "data",
    "embedding and dropout",
    "recurrence, forward",
    "recurrence, backward",
    "softmax and loss",
    "clipping",
    "optimiser",
    "validation",
    "logs and states",
    "Lightning and the rest",
)
_DATA, _EMBEDDING, _FORWARD, _BACKWARD, _SOFTMAX, _CLIPPING, _OPTIMISER, _VALIDATION, _LOGS, _REST = PARTS
# By the ends of the names that Lightning gives to what it does; what goes on inside one counts for the innermost.
_ACTIONS = {
    ".train_dataloader_next": _DATA,
    ".training_step": _REST,
    ".backward": _SOFTMAX,
    ".configure_gradient_clipping": _CLIPPING,
    ".optimizer_step": _OPTIMISER,
    ".optimizer_zero_grad": _OPTIMISER,
}


class Parts(Profiler):
    """A Lightning profiler that adds up the seconds of each part.

    The parts of the model are told apart by hooks: when its recurrent layers begin and end, and when the gradients of
    what they read and of what they put out are known. What lies between them is dropout.
    """

    def __init__(self, trainer: Trainer, model: LanguageModel) -> None:
        super().__init__()
        self.seconds: dict[str, float] = dict.fromkeys(PARTS, 0.0)
        self._trainer = trainer
        self._inside = [_REST]
        self._since = time.perf_counter()
        model.embedding.register_forward_pre_hook(lambda *_: self._go_on(_EMBEDDING))
        for module in model.layers.modules():
            if isinstance(module, Recurrent | TorchLayer):
                module.register_forward_pre_hook(self._enter)
                module.register_forward_hook(self._leave)
        model.layers.register_forward_hook(self._leave_all)
        self._latest: Tensor | None = None

    def start(self, action_name: str) -> None:
        """An action begins."""
        part = self._part(action_name)
        if part is not None:
            self._lap()
            self._inside.append(part)

    def stop(self, action_name: str) -> None:
        """An action ends."""
        if self._part(action_name) is not None:
            self._lap()
            self._inside.pop()

    def restart(self) -> None:
        """Forget the time since the last event: nothing was being done."""
        self._since = time.perf_counter()

    def _part(self, action: str) -> str | None:
        if action.startswith("[Callback]"):
            return _LOGS
        return _ACTIONS.get(action[action.rfind(".") :])

    def _lap(self) -> None:
        now = time.perf_counter()
        part = _VALIDATION if self._trainer.validating else self._inside[-1]
        self.seconds[part] += now - self._since
        self._since = now

    def _go_on(self, part: str) -> None:
        """What is going on becomes another part of the same action."""
        self._lap()
        if not self._trainer.validating:
            self._inside[-1] = part

    def _enter(self, _: Any, given: tuple[Any, ...]) -> None:
        self._go_on(_FORWARD)
        self._when_known(given[0], _EMBEDDING)

    def _leave(self, _: Any, given: Any, result: tuple[Tensor, Any]) -> None:
        self._go_on(_EMBEDDING)
        self._latest = result[0]
        self._when_known(result[0], _BACKWARD)

    def _leave_all(self, _: Any, given: Any, result: tuple[Tensor, Any]) -> None:
        self._go_on(_SOFTMAX)
        # without dropout it is what the last layer put out
        if result[0] is not self._latest:
            self._when_known(result[0], _EMBEDDING)
        self._latest = None

    def _when_known(self, tensor: Tensor, part: str) -> None:
        """From when the gradient of the tensor is known, the backward pass is in this part."""
        if tensor.requires_grad:
            tensor.register_hook(lambda _: self._go_on(part))
