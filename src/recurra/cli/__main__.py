"""`python -m recurra.cli`, where the command itself is not on the path."""

from recurra.cli import main

main()
