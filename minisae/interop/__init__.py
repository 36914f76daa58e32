"""Formats of other libraries, read and written without them."""
