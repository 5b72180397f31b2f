"""`psyqueue demo`: thousands of real files counted by real workers, one of which is killed in the middle of it."""
