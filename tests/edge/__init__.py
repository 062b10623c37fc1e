"""tests of the edge"""
