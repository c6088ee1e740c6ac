"""Python clients of the gateway, blocking and async, and the `framepack-jobs` command."""

from service.client.async_client import AsyncClient
from service.client.client import Client
from service.client.errors import ClientError, RequestRefused, ServiceUnavailable

__all__ = ["AsyncClient", "Client", "ClientError", "RequestRefused", "ServiceUnavailable"]
