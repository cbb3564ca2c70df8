"""What the HTTP API takes and gives, as pydantic models: validation of requests, documentation of both."""
