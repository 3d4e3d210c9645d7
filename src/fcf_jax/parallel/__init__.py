"""Devices, host memory and many federations at once."""
