"""Peers of the offline benchmark, one worker module each."""
