"""The command `psyqueue`. It may use every part of the package but `testing`; nothing imports it."""
