"""Weights that were trained elsewhere: of Keras models, and of any file of named arrays.

From torch.nn it is `recurra.nn.from_torch`.
"""

from recurra.convert.keras_layers import from_keras as from_keras
from recurra.convert.named_arrays import Taken as Taken
from recurra.convert.named_arrays import fill as fill
