"""The bundled demo model: how its text is generated, how it is trained, and how it is scored."""
