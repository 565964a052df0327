"""What the machine gives: files, optional packages, plug-ins, devices and processes."""
