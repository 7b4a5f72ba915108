"""Layers: torch modules that read a batch of sequences, or one step."""

from recurra.nn import init as init
from recurra.nn.batch_norm import MaskedBatchNorm as MaskedBatchNorm
from recurra.nn.bidirectional import Bidirectional as Bidirectional
from recurra.nn.classic import GRU as GRU
from recurra.nn.classic import LSTM as LSTM
from recurra.nn.classic import RNN as RNN
from recurra.nn.convert import from_torch as from_torch
from recurra.nn.convert import to_torch as to_torch
from recurra.nn.dropout import Dropout as Dropout
from recurra.nn.layer import Layer as Layer
from recurra.nn.layer import State as State
from recurra.nn.pooling import Last as Last
from recurra.nn.pooling import Mean as Mean
from recurra.nn.recurrent import Recurrent as Recurrent
from recurra.nn.residual import Residual as Residual
from recurra.nn.sequence import reverse as reverse
from recurra.nn.stack import Stack as Stack
from recurra.nn.state import map_state as map_state
from recurra.nn.state import restart as restart
from recurra.nn.state import state_type as state_type
from recurra.nn.weight_dropout import WeightDropout as WeightDropout
