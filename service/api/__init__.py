"""The gateway: HTTP in front of the record and the storage. Starts without torch."""
