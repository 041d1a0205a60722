"""Find a way from a compute node to the bridge, through whatever the site's network allows.

A child endpoint, within a batch job, goes it; its parent, on the login node, helps it along. They
meet in a folder of the shared file system.
"""
