"""What an engine measures of itself, and its exposition to Prometheus."""
