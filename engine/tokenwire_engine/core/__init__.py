"""The core thread: takes commands, plans steps, hands out results."""
