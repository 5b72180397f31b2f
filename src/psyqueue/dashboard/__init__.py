"""The queue in a browser: an ASGI application to mount into another one, or to serve with `psyqueue dashboard`."""

from psyqueue.dashboard.access import ROLES, Access, Passwords, Role, Visitor, everyone
from psyqueue.dashboard.app import Dashboard

__all__ = ["ROLES", "Access", "Dashboard", "Passwords", "Role", "Visitor", "everyone"]
