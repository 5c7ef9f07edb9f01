"""How fast the parts of a run are.

`hvd_imagenet.benchmark` is the program.
"""
