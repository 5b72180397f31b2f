"""What tests may lean on, ours and other people's: the conformance suite for backends and the history checker.

`psyqueue.testing.conformance` needs pytest and pytest-asyncio (`pip install 'psyqueue[test]'`);
`psyqueue.testing.history` needs nothing. Nothing else in psyqueue imports this package.
"""
