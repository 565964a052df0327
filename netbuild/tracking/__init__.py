"""Tracking: objects followed through videos, trails and counts, files of MOTChallenge, and the measures of tracks."""
