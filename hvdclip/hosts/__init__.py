"""What ranks tell of their hosts: whether they were launched rightly there, and data on disks of their own."""
