"""Who a layer is compared to: each peer computes the same cell with the layer's weights."""

from __future__ import annotations

from recurra.bench.cell_libraries import MinGRU, ReservoirPy, TorchRecurrent
from recurra.bench.contract import Peer
from recurra.bench.flax_peer import Flax
from recurra.bench.keras_peer import Keras
from recurra.bench.loops import TorchLoop
from recurra.bench.onnx_peer import OnnxRuntime
from recurra.bench.torch_modules import Itself, OwnGRU, TorchGRUCell, TorchNN

PEERS: dict[str, Peer] = {
    "torch.nn": TorchNN(),
    "torch.nn.GRUCell": TorchGRUCell(),
    "torch loop": TorchLoop("eager"),
    "torch loop, TorchScript": TorchLoop("TorchScript"),
    "torch loop, compiled": TorchLoop("compiled"),
    "Keras": Keras(),
    "Flax nnx": Flax(),
    "ONNX Runtime": OnnxRuntime(),
    "torchrecurrent": TorchRecurrent(),
    "minGRU-pytorch": MinGRU(),
    "reservoirpy": ReservoirPy(),
    "recurra.nn.GRU": OwnGRU(),
    "recurra, 1 thread": Itself(threads=1),
    "recurra, float32": Itself(),
    "torch.nn, bfloat16": TorchNN(bfloat16=True),
}
"""Every peer by the name that cases give it."""
