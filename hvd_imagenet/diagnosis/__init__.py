"""What is looked at before a job costs anything.

`hvd_imagenet.doctor` is the program.
"""
