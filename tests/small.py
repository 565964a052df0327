"""A detector small enough for tests that only want one."""

TINY = """
nc: 3
imgsz: 64
layers:
  - [-1, 1, Conv, [8, 3, 2]]
  - [-1, 1, Conv, [8, 3, 2]]
  - [-1, 1, Conv, [16, 3, 2]]
  - [[-1], 1, Detect, [nc]]
"""
