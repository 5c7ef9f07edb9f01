"""A model of how data-parallel training scales.

`hvd_imagenet.predict_scaling` is the program.
"""
