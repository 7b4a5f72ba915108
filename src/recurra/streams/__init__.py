"""A model on a stream: what arrives goes in, in pieces of any size, and what is new comes out. Knows no torch."""

from recurra.streams.snapshot import SNAPSHOT_VERSION as SNAPSHOT_VERSION
from recurra.streams.stateful import Stateful as Stateful
from recurra.streams.stream import Stream as Stream
from recurra.streams.streams import Streams as Streams
