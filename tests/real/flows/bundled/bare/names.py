"""In a folder without an `__init__.py`."""


def name() -> str:
    return "bare"
