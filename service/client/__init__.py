"""Python client of the gateway and the `framepack-jobs` command."""

from service.client.client import Client, ClientError, RequestRefused, ServiceUnavailable

__all__ = ["Client", "ClientError", "RequestRefused", "ServiceUnavailable"]
