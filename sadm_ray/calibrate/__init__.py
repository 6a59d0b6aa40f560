"""Calibration: what a trained model is corrected by, and bounds that hold, from subjects that it was not trained on."""
