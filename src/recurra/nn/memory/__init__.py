"""Layers whose memory is a matrix, trained in chunks: torch layers, not programs."""

from recurra.nn.memory.delta import GatedDelta as GatedDelta
from recurra.nn.memory.linear_attention import GatedLinearAttention as GatedLinearAttention
from recurra.nn.memory.mlstm import MatrixLSTM as MatrixLSTM
from recurra.nn.memory.selective import SelectiveStateSpace as SelectiveStateSpace
