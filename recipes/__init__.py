"""Learning checks: published tasks that a cell is known to learn, or known not to. Run through `make recipes`.

Not part of the installed package: the recipes use recurra as anybody does. Read `catalogue.py` for what is run,
`problems.py` for the tasks, `train.py` for the one training loop.
"""
