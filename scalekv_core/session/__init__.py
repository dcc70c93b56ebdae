"""A model that generates with a compressed cache: compress, report, calibration."""
