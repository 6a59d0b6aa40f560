"""What is timed: each module prints JSON lines, its ratios taken in one run."""
