"""The step between an application that a script made and the server that the script starts."""

from fasterapi import _registry

__all__ = ["connect_route_registry_to_server"]


def connect_route_registry_to_server() -> int:
    """Offers the routes of every FastAPI object of this process to the servers that are started in it.

    Returns how many routes there are so far; those that are added before `Server.start()` count as well.
    """
    _registry.connect()
    return sum(len(app.routes) for app in _registry.applications())
