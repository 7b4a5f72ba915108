"""Saved models without torch: numpy and the engine only.

    model = recurra.runtime.load("runs/demo")
    y, state = model(x)               sequences
    y_t, state = model.step(x_t, state)
    stream = model.stream()           pieces of any size, in constant memory
    streams = model.streams(1000)     many streams, stepped as one batch

A model never changes and may be used by several threads at once; a stream belongs to one.
"""

from recurra.decode import Reader as Reader
from recurra.errors import RecurraBackendWarning as RecurraBackendWarning
from recurra.runtime.kernel import set_threads as set_threads
from recurra.runtime.language_model import LanguageModel as LanguageModel
from recurra.runtime.layer import Layer as Layer
from recurra.runtime.loading import from_data as from_data
from recurra.runtime.loading import load as load
from recurra.streams import Stream as Stream
from recurra.streams import Streams as Streams
