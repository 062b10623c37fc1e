"""tests of the daemon"""
