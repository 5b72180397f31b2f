"""`python -m psyqueue` is the command `psyqueue`."""

from psyqueue.cli.main import main

main()
