"""What operators look at and ask for: status, logs, clusters, plan, render, doctor. Nothing here serves."""
