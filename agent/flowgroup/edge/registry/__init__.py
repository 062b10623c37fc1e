"""
Image registries, as far as a deployment needs them: which digest a tag stands for. Nothing is pulled.

`digest.py` asks, `door.py` gets in, `login.py` knows as whom, `wire.py` is the only one that speaks.
"""
