"""Weights in fewer bits: the schemes that kernels know, and how a float matrix is brought into one.

A checkpoint's own format, whichever it is, is read into one of the schemes; a scheme is packed once for the
device's kernel. Formats and kernels never meet.
"""
