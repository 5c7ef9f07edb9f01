"""The hosts of a job, and how a job is started on them.

Nothing here needs TensorFlow. `hvd_imagenet.launch` is the program.
"""
