"""What is known of how good a dataset is: evidence, checks, copies, leaks, differences, the report."""
