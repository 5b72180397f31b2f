from psyqueue.backends.sql_files import load_statements

SQL = load_statements("psyqueue.backends._sqlite")
"""Every statement of this backend, by `file.section`."""
