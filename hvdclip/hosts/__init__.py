"""What ranks report of their hosts: whether they were launched correctly, and data on the hosts' own disks."""
