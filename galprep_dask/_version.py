"""The version, in a module of its own, so that every floor can write it into headers."""

__version__ = "0.1.0"
