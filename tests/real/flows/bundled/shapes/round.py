from . import base
from .base import UNIT


def area(radius: int) -> int:
    return UNIT * base.UNIT * radius
