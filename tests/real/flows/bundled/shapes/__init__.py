"""A package whose modules name each other relatively."""

from .base import UNIT

__all__ = ["UNIT"]
