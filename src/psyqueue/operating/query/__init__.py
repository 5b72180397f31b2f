"""The language of filters: `status:dead name:email.* error:"timed out" age:>1h`."""

from psyqueue.operating.query.fields import FIELDS, Query, check_terms, read_query
from psyqueue.operating.query.syntax import Term, Value, quoted

__all__ = ["FIELDS", "Query", "Term", "Value", "check_terms", "quoted", "read_query"]
