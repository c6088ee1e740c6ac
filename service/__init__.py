"""The job service: what crosses process boundaries (contract), the gateway (api) and its client."""
