"""The torch face of the engine: one op over a batch of sequences, and the plain-torch reference that it is held equal to."""
