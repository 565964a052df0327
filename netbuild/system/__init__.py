"""The operating system and the Python installation: files, optional packages, plug-ins, devices, processes."""
