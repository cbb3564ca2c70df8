"""What the commands that start processes can be told, by process; each option is said once."""
