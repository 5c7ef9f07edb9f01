"""What runs did, as a page and pictures: the work of `hvd_imagenet.report`.

Run directories are read as they are, of runs that go on too, and nothing in
them is trusted to be whole.
"""
