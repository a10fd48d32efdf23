"""The recipe of the open body; run by `tools/build_open_body.py`."""
