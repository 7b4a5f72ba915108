"""ONNX both ways: models of recurra as ONNX files, and ONNX's recurrent operators on our engine.

The packages onnx and onnxruntime are needed only where something is read or written: pip install 'recurra[onnx]'.
"""

from recurra.onnx.exporting import Exported as Exported
from recurra.onnx.exporting import export as export
from recurra.onnx.layer_graph import refusal as refusal
from recurra.onnx.layers import to_layers as to_layers
from recurra.onnx.packages import missing as missing
from recurra.onnx.parity import Session as Session
from recurra.onnx.parts import HasParts as HasParts
from recurra.onnx.parts import Parts as Parts
from recurra.onnx.plain_operators import PLAIN as PLAIN
from recurra.onnx.recurrent_nodes import RECURRENT as RECURRENT
from recurra.onnx.running import run as run
