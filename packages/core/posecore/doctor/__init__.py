"""Looks at an installation and says what works, what is missing, what that would enable, and how to get it.

Nothing here imports torch or another part of the core before a probe asks for it: the doctor must also run where they
are broken.
"""
