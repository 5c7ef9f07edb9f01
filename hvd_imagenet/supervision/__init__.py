"""Who holds a job up: a way between the ranks beside that of the gradients.

Every rank tells rank 0 every second how far it is. Where one is lost, fails or
does not go on, rank 0 names it and all end, which an exchange of gradients that
waits for it could not do.
"""
